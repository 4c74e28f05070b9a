//! Who may ask: certificates of the cluster's CA, and of those only the API server's and the administrators'.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::NodeTls;

/// What is wrong with the certificates.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsError(pub(crate) String);

/// Common name of the API server's client certificate.
const API_SERVER: &str = "weft-apiserver";
/// Organisation of those who may do everything.
const ADMINISTRATORS: &str = "system:masters";

pub(super) fn acceptor(tls: &NodeTls) -> Result<TlsAcceptor, TlsError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| TlsError(format!("{what}: {error}"));
    let certificates = |pem: &str, what: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed(what, &error))
            .and_then(|list| if list.is_empty() { Err(failed(what, &"no certificate")) } else { Ok(list) })
    };
    let chain = certificates(&tls.cert_pem, "server certificate")?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.as_bytes())
        .map_err(|error| failed("private key", &error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca_pem, "client CA")? {
        roots.add(certificate).map_err(|error| failed("client CA", &error))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Health checks come without a certificate; everything else is refused one by one.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed("client CA", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("protocol versions", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| failed("server certificate", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether the peer may read logs and metrics. That its certificate is the cluster's was verified in the handshake.
pub(super) fn is_allowed(connection: &ServerConnection) -> bool {
    connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .is_some_and(|certificate| may_ask(certificate))
}

fn may_ask(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let name = subject.iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == API_SERVER));
    name || subject.iter_organization().any(|group| group.as_str().is_ok_and(|group| group == ADMINISTRATORS))
}
