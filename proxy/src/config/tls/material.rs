//! Certificates with their keys.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use weft_xds::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::TlsCertificate,
};

use super::{ConfigError, Lookup, Path, unsupported};
use crate::tls::material::Shown;

/// Compiles a chain with its key.
pub(super) fn key(
    path: &Path,
    message: &TlsCertificate,
    provider: &CryptoProvider,
    lookup: &mut Lookup<'_>,
) -> Result<CertifiedKey, ConfigError> {
    unsupported!(path, message; pkcs12, private_key_provider, password, signed_certificate_timestamp,
        tls_params);
    let watched = message.watched_directory.is_some();
    let mut data = |name: &str, source| lookup.data(&path.field(name), source, watched);
    let chain = data("certificate_chain", message.certificate_chain.as_ref())?;
    let private = data("private_key", message.private_key.as_ref())?;
    let ocsp = data("ocsp_staple", message.ocsp_staple.as_ref())?;
    let chain = pem_list(&path.field("certificate_chain"), &chain)?;
    if chain.is_empty() {
        return Err(path.field("certificate_chain").error("holds no certificate"));
    }
    // What a parser says of a key stays out of messages: it could quote it.
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|_| path.field("private_key").error("is not a private key in PEM"))?;
    let mut key = CertifiedKey::from_der(chain, private, provider)
        .map_err(|error| path.field("private_key").error(error.to_string()))?;
    key.ocsp = Some(ocsp).filter(|staple| !staple.is_empty());
    Ok(key)
}

/// What the admin endpoint tells of certificates.
pub(super) fn shown(source: Option<&DataSource>, certificates: &[CertificateDer<'_>]) -> Vec<Shown> {
    let path = match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::Filename(name)) => name,
        _ => "<inline>",
    };
    certificates.iter().filter_map(|certificate| Shown::of(path, certificate)).collect()
}

/// The certificates in a PEM text.
pub(super) fn pem_list(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| path.error(format!("is not PEM: {error}")))
}
