//! Compiling TLS contexts. All that they need beyond the message (secrets, files) is looked up through [`Lookup`], which
//! notes it, so that a context is compiled again when one of those changes.

mod material;
mod params;
mod validation;

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs::Ticketer,
    pki_types::ServerName,
    server::{NoServerSessionStorage, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use weft_xds::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext,
    downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType},
    secret::Type as SecretType,
};

use self::validation::Validation;
use super::{ConfigError, Path, matcher, secrets::Lookup, unsupported};
use crate::tls::{
    client::ClientSettings,
    material::Material,
    names::Names,
    params::Params,
    resolve::Certificates,
    server::ServerSettings,
    verify::{Conditions, ServerVerifier},
};

/// Sessions of clients that are remembered, as Envoy's default is.
const SERVER_SESSIONS: usize = 20_480;
/// Upstream names for which sessions are remembered.
const CLIENT_SESSIONS: usize = 256;
/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What both sides have: us, and whom we believe.
struct Common {
    params: Params,
    keys: Vec<CertifiedKey>,
    material: Material,
    validation: Option<Validation>,
    alpn: Vec<Vec<u8>>,
}

/// Compiles the side towards clients; `None` if a secret is not there yet.
pub(super) fn server(
    path: &Path,
    message: &DownstreamTlsContext,
    lookup: &mut Lookup<'_>,
) -> Result<Option<ServerSettings>, ConfigError> {
    unsupported!(path, message; session_timeout);
    match OcspStaplePolicy::try_from(message.ocsp_staple_policy) {
        Ok(OcspStaplePolicy::LenientStapling) => {}
        _ => return Err(path.field("ocsp_staple_policy").error("only LENIENT_STAPLING is supported")),
    }
    let stateless = match &message.session_ticket_keys_type {
        None => true,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(disable)) => !disable,
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            return Err(path.field("session_ticket_keys").unsupported());
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            return Err(path.field("session_ticket_keys_sds_secret_config").unsupported());
        }
    };
    let context = message.common_tls_context.clone().unwrap_or_default();
    let path = path.field("common_tls_context");
    let Some(common) = common(&path, &context, lookup)? else { return Ok(None) };
    if common.keys.is_empty() {
        return Err(path.field("tls_certificates").missing());
    }
    let mut certificates = Certificates::default();
    certificates.require_name = message.require_sni.as_ref().is_some_and(|value| value.value);
    for (index, key) in common.keys.into_iter().enumerate() {
        certificates
            .add(key)
            .map_err(|error| path.item("tls_certificates", index).error(error.to_string()))?;
    }
    let local = certificates
        .first()
        .and_then(|key| key.cert.first())
        .and_then(|certificate| Names::of(certificate).ok())
        .unwrap_or_default();
    let required = message.require_client_certificate.as_ref().is_some_and(|value| value.value);
    let provider = Arc::new(common.params.provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&common.params.versions)
        .map_err(|error| path.field("tls_params").error(error.to_string()))?;
    let builder = match common.validation {
        None if required => {
            return Err(path.field("validation_context").error("is required by require_client_certificate"));
        }
        None => builder.with_no_client_auth(),
        Some(validation) => builder.with_client_cert_verifier(
            validation
                .client_verifier(required, provider)
                .map_err(|reason| path.field("validation_context").error(reason))?,
        ),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = common.alpn;
    config.ignore_client_order = !message.prefer_client_ciphers;
    config.session_storage = if message.disable_stateful_session_resumption {
        Arc::new(NoServerSessionStorage {})
    } else {
        ServerSessionMemoryCache::new(SERVER_SESSIONS)
    };
    if stateless {
        config.ticketer = Ticketer::new().map_err(|error| path.error(error.to_string()))?;
    }
    // Each costs a record at the end of every full handshake; one is what a client that comes back needs.
    config.send_tls13_tickets = usize::from(stateless || !message.disable_stateful_session_resumption);
    Ok(Some(ServerSettings { config: Arc::new(config), local, material: common.material }))
}

/// Compiles the side towards upstreams; `None` if a secret is not there yet.
pub(super) fn client(
    path: &Path,
    message: &UpstreamTlsContext,
    lookup: &mut Lookup<'_>,
) -> Result<Option<ClientSettings>, ConfigError> {
    unsupported!(path, message; auto_host_sni, allow_renegotiation);
    // The verifier looks at no key usage, and silence would promise that it does.
    #[expect(deprecated, reason = "checked only to be refused")]
    let enforce = &message.enforce_rsa_key_usage;
    if enforce.as_ref().is_some_and(|enforce| enforce.value) {
        return Err(path.field("enforce_rsa_key_usage").unsupported());
    }
    let server_name = match message.sni.as_str() {
        "" => None,
        name => Some(
            ServerName::try_from(name.to_owned())
                .map_err(|_| path.field("sni").error(format!("{name:?} is not a name")))?,
        ),
    };
    if message.auto_sni_san_validation && server_name.is_none() {
        return Err(path.field("auto_sni_san_validation").error("needs sni"));
    }
    let context = message.common_tls_context.clone().unwrap_or_default();
    let path = path.field("common_tls_context");
    let Some(mut common) = common(&path, &context, lookup)? else { return Ok(None) };
    if common.keys.len() > 1 {
        return Err(path.field("tls_certificates").error("at most one is supported"));
    }
    let provider = Arc::new(common.params.provider);
    let algorithms = provider.signature_verification_algorithms;
    let (chain, conditions) = match common.validation.take() {
        None => (None, Conditions::default()),
        Some(validation) => {
            let (chain, conditions) = validation
                .server_verifier(&provider)
                .map_err(|reason| path.field("validation_context").error(reason))?;
            (Some(chain), conditions)
        }
    };
    let verifier =
        ServerVerifier { chain, conditions, check_name: message.auto_sni_san_validation, algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&common.params.versions)
        .map_err(|error| path.field("tls_params").error(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match common.keys.pop() {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
    };
    let sessions = message.max_session_keys.as_ref().map_or(1, |value| value.value);
    config.resumption = match sessions {
        0 => Resumption::disabled(),
        _ => Resumption::in_memory_sessions(CLIENT_SESSIONS),
    };
    config.alpn_protocols = common.alpn;
    let with = |alpn: &[u8]| {
        let mut config = config.clone();
        if config.alpn_protocols.is_empty() {
            config.alpn_protocols = vec![alpn.to_vec()];
        }
        // Sessions of one kind are of no use to the other.
        if sessions > 0 {
            config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        }
        Arc::new(config)
    };
    Ok(Some(ClientSettings {
        http1: with(b"http/1.1"),
        http2: with(b"h2"),
        opaque: Arc::new(config),
        server_name,
        material: common.material,
    }))
}

fn common(
    path: &Path,
    message: &CommonTlsContext,
    lookup: &mut Lookup<'_>,
) -> Result<Option<Common>, ConfigError> {
    unsupported!(path, message; tls_certificate_provider_instance, custom_tls_certificate_selector,
        custom_handshaker, key_log);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance);
    }
    let params = params::compile(&path.field("tls_params"), message.tls_params.as_ref())?;
    let (mut keys, mut ours) = (Vec::new(), Vec::new());
    for (index, certificate) in message.tls_certificates.iter().enumerate() {
        let key =
            material::key(&path.item("tls_certificates", index), certificate, &params.provider, lookup)?;
        ours.extend(material::shown(certificate.certificate_chain.as_ref(), &key.cert));
        keys.push(key);
    }
    let mut missing = false;
    for (index, config) in message.tls_certificate_sds_secret_configs.iter().enumerate() {
        let path = path.item("tls_certificate_sds_secret_configs", index);
        match lookup.secret(&path, config)? {
            None => missing = true,
            Some((path, SecretType::TlsCertificate(certificate))) => {
                let key = material::key(&path, &certificate, &params.provider, lookup)?;
                ours.extend(material::shown(certificate.certificate_chain.as_ref(), &key.cert));
                keys.push(key);
            }
            Some((path, _)) => return Err(path.error("is not a certificate")),
        }
    }
    let validation = validation::compile(path, message.validation_context_type.as_ref(), lookup)?;
    let Some(validation) = validation.filter(|_| !missing) else { return Ok(None) };
    let alpn = message.alpn_protocols.iter().map(|name| name.clone().into_bytes()).collect();
    let authorities = validation.as_ref().map(|validation| validation.shown.clone()).unwrap_or_default();
    Ok(Some(Common { params, keys, material: Material { authorities, ours }, validation, alpn }))
}
