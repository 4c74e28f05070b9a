//! TLS of the listener.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};

use crate::pki::{self, ClusterPki, PkiError};

/// Why the listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate cannot be made.
    #[error("cannot issue the server's certificate")]
    Pki(#[source] PkiError),
    /// The TLS library refuses the settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The TLS library refuses the authority that clients are verified against.
    #[error("cannot set up the verification of client certificates")]
    Verifier(#[source] VerifierBuilderError),
}

/// The one implementation of cryptography that the whole of Weft uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A gRPC server under `names`; who calls is told by other means than certificates.
pub(crate) fn grpc_config(pki: &ClusterPki, names: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (cert, key) = pki.issue_server(&names).map_err(TlsError::Pki)?;
    let certificates = pki::certificates(&cert).map_err(TlsError::Pki)?;
    let key = pki::private_key(&key).map_err(TlsError::Pki)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Tls)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(TlsError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A server under `names` that verifies the certificates of clients which have one.
pub(crate) fn server_config(pki: &ClusterPki, names: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (cert, key) = pki.issue_server(&names).map_err(TlsError::Pki)?;
    let certificates = pki::certificates(&cert).map_err(TlsError::Pki)?;
    let key = pki::private_key(&key).map_err(TlsError::Pki)?;
    let mut roots = RootCertStore::empty();
    for certificate in pki::certificates(pki.ca_pem()).map_err(TlsError::Pki)? {
        roots.add(certificate).map_err(TlsError::Tls)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(TlsError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
