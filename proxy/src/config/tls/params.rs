//! Versions, suites and groups.

use rustls::version::{TLS12, TLS13};
use weft_xds::pb::envoy::extensions::transport_sockets::tls::v3::{
    TlsParameters, tls_parameters::TlsProtocol,
};

use super::{ConfigError, Path, unsupported};
use crate::tls::params::Params;

/// Compiles what a context says of the protocol itself.
pub(super) fn compile(path: &Path, message: Option<&TlsParameters>) -> Result<Params, ConfigError> {
    let mut params = Params::default();
    let Some(message) = message else { return Ok(params) };
    unsupported!(path, message; signature_algorithms, compliance_policies);
    let version = |name: &str, value: i32, default: u8| match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(default),
        Ok(TlsProtocol::TlSv12) => Ok(2),
        Ok(TlsProtocol::TlSv13) => Ok(3),
        _ => Err(path.field(name).error("only TLSv1_2 and TLSv1_3 are supported")),
    };
    let lowest = version("tls_minimum_protocol_version", message.tls_minimum_protocol_version, 2)?;
    let highest = version("tls_maximum_protocol_version", message.tls_maximum_protocol_version, 3)?;
    params.versions = [(3, &TLS13), (2, &TLS12)]
        .into_iter()
        .filter(|(version, _)| (lowest..=highest).contains(version))
        .map(|(_, version)| version)
        .collect();
    if params.versions.is_empty() {
        return Err(path.field("tls_minimum_protocol_version").error("is above the maximum"));
    }
    if !message.cipher_suites.is_empty() {
        params
            .set_ciphers(&message.cipher_suites)
            .map_err(|name| path.field("cipher_suites").error(format!("{name:?} is not supported")))?;
    }
    if !message.ecdh_curves.is_empty() {
        params
            .set_groups(&message.ecdh_curves)
            .map_err(|name| path.field("ecdh_curves").error(format!("{name:?} is not supported")))?;
    }
    Ok(params)
}
