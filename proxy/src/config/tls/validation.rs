//! Whom the other side must be: roots, revocation, names, pinned certificates and keys.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateRevocationListDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use weft_xds::pb::envoy::{
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, SdsSecretConfig,
        certificate_validation_context::TrustChainVerification, common_tls_context::ValidationContextType,
        secret::Type as SecretType, subject_alt_name_matcher::SanType,
    },
    r#type::matcher::v3::StringMatcher,
};

use super::{ConfigError, Lookup, Path, matcher, material, unsupported};
use crate::tls::{
    material::Shown,
    names::{Kind, NameMatch},
    verify::{ClientVerifier, Conditions},
};

/// Whom we believe.
pub(super) struct Validation {
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    only_leaf_crl: bool,
    conditions: Conditions,
    suppress_ca_list: bool,
    /// The authorities, for the admin endpoint.
    pub(super) shown: Vec<Shown>,
}

/// Compiles what a context says of the other side. The outer `None` is a secret that is not there yet, the inner one a
/// context that asks for nothing.
pub(super) fn compile(
    path: &Path,
    kind: Option<&ValidationContextType>,
    lookup: &mut Lookup<'_>,
) -> Result<Option<Option<Validation>>, ConfigError> {
    Ok(Some(match kind {
        None => None,
        Some(ValidationContextType::ValidationContext(context)) => {
            validation(&path.field("validation_context"), context, lookup)?
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let path = path.field("validation_context_sds_secret_config");
            match delivered(&path, config, lookup)? {
                None => return Ok(None),
                Some((path, context)) => validation(&path, &context, lookup)?,
            }
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let path = path.field("combined_validation_context");
            #[expect(deprecated, reason = "checked only to be refused")]
            {
                unsupported!(path, combined; validation_context_certificate_provider,
                    validation_context_certificate_provider_instance);
            }
            let sds = path.field("validation_context_sds_secret_config");
            let config =
                combined.validation_context_sds_secret_config.as_ref().ok_or_else(|| sds.missing())?;
            match delivered(&sds, config, lookup)? {
                None => return Ok(None),
                Some((path, context)) => {
                    let default = combined.default_validation_context.clone().unwrap_or_default();
                    validation(&path, &merged(default, context), lookup)?
                }
            }
        }
        Some(_) => return Err(path.field("validation_context_certificate_provider").unsupported()),
    }))
}

fn delivered(
    path: &Path,
    config: &SdsSecretConfig,
    lookup: &mut Lookup<'_>,
) -> Result<Option<(Path, CertificateValidationContext)>, ConfigError> {
    match lookup.secret(path, config)? {
        None => Ok(None),
        Some((path, SecretType::ValidationContext(context))) => Ok(Some((path, context))),
        Some((path, _)) => Err(path.error("is not a validation context")),
    }
}

/// As protobuf merges: what is delivered replaces single fields and adds to lists.
fn merged(
    mut default: CertificateValidationContext,
    delivered: CertificateValidationContext,
) -> CertificateValidationContext {
    default.trusted_ca = delivered.trusted_ca.or(default.trusted_ca);
    default.crl = delivered.crl.or(default.crl);
    default.watched_directory = delivered.watched_directory.or(default.watched_directory);
    default.verify_certificate_spki.extend(delivered.verify_certificate_spki);
    default.verify_certificate_hash.extend(delivered.verify_certificate_hash);
    default.match_typed_subject_alt_names.extend(delivered.match_typed_subject_alt_names);
    #[expect(deprecated, reason = "older control planes still send it")]
    default.match_subject_alt_names.extend(delivered.match_subject_alt_names);
    default.ca_certificate_provider_instance =
        delivered.ca_certificate_provider_instance.or(default.ca_certificate_provider_instance);
    default.system_root_certs = delivered.system_root_certs.or(default.system_root_certs);
    default.custom_validator_config = delivered.custom_validator_config.or(default.custom_validator_config);
    default.require_signed_certificate_timestamp =
        delivered.require_signed_certificate_timestamp.or(default.require_signed_certificate_timestamp);
    default.allow_expired_certificate |= delivered.allow_expired_certificate;
    default.only_verify_leaf_cert_crl |= delivered.only_verify_leaf_cert_crl;
    default.suppress_client_ca_list |= delivered.suppress_client_ca_list;
    default.max_verify_depth = delivered.max_verify_depth.or(default.max_verify_depth);
    if delivered.trust_chain_verification != 0 {
        default.trust_chain_verification = delivered.trust_chain_verification;
    }
    default
}

/// `None` if the context does not ask for anything.
fn validation(
    path: &Path,
    message: &CertificateValidationContext,
    lookup: &mut Lookup<'_>,
) -> Result<Option<Validation>, ConfigError> {
    unsupported!(path, message; ca_certificate_provider_instance, system_root_certs,
        require_signed_certificate_timestamp, allow_expired_certificate, custom_validator_config,
        max_verify_depth);
    match TrustChainVerification::try_from(message.trust_chain_verification) {
        Ok(TrustChainVerification::VerifyTrustChain) => {}
        _ => {
            return Err(path.field("trust_chain_verification").error("only VERIFY_TRUST_CHAIN is supported"));
        }
    }
    let conditions = conditions(path, message)?;
    let watched = message.watched_directory.is_some();
    let trusted = lookup.data(&path.field("trusted_ca"), message.trusted_ca.as_ref(), watched)?;
    let crl = lookup.data(&path.field("crl"), message.crl.as_ref(), watched)?;
    if message.trusted_ca.is_none() {
        let asks = !(conditions.names.is_empty()
            && conditions.certificates.is_empty()
            && conditions.keys.is_empty());
        return if asks || message.crl.is_some() {
            Err(path.field("trusted_ca").missing())
        } else {
            Ok(None)
        };
    }
    let path_of = path.field("trusted_ca");
    let mut roots = RootCertStore::empty();
    let certificates = material::pem_list(&path_of, &trusted)?;
    let shown = material::shown(message.trusted_ca.as_ref(), &certificates);
    for certificate in certificates {
        roots.add(certificate).map_err(|error| path_of.error(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(path_of.error("holds no certificate"));
    }
    let crls = CertificateRevocationListDer::pem_slice_iter(&crl)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| path.field("crl").error(format!("is not PEM: {error}")))?;
    Ok(Some(Validation {
        roots: Arc::new(roots),
        crls,
        only_leaf_crl: message.only_verify_leaf_cert_crl,
        conditions,
        suppress_ca_list: message.suppress_client_ca_list,
        shown,
    }))
}

fn conditions(path: &Path, message: &CertificateValidationContext) -> Result<Conditions, ConfigError> {
    let mut conditions = Conditions::default();
    let text = |path: &Path, matcher: Option<&StringMatcher>| {
        matcher::text_match(path, matcher.ok_or_else(|| path.missing())?)
    };
    for (index, matcher) in message.match_typed_subject_alt_names.iter().enumerate() {
        let path = path.item("match_typed_subject_alt_names", index);
        let kind = match SanType::try_from(matcher.san_type) {
            Ok(SanType::Dns) => Kind::Dns,
            Ok(SanType::Uri) => Kind::Uri,
            Ok(SanType::Email) => Kind::Email,
            Ok(SanType::IpAddress) => Kind::Ip,
            _ => {
                return Err(path
                    .field("san_type")
                    .error("only DNS, URI, EMAIL and IP_ADDRESS are supported"));
            }
        };
        conditions
            .names
            .push(NameMatch { kind, text: text(&path.field("matcher"), matcher.matcher.as_ref())? });
    }
    #[expect(deprecated, reason = "older control planes still send it")]
    let untyped = &message.match_subject_alt_names;
    for (index, matcher) in untyped.iter().enumerate() {
        let path = path.item("match_subject_alt_names", index);
        for kind in [Kind::Dns, Kind::Uri, Kind::Email, Kind::Ip] {
            conditions.names.push(NameMatch { kind, text: text(&path, Some(matcher))? });
        }
    }
    for (index, hash) in message.verify_certificate_hash.iter().enumerate() {
        let bytes = hex(&hash.replace(':', ""));
        conditions.certificates.push(bytes.ok_or_else(|| {
            path.item("verify_certificate_hash", index).error("is not a SHA-256 in hexadecimal")
        })?);
    }
    for (index, hash) in message.verify_certificate_spki.iter().enumerate() {
        use base64::Engine as _;

        let bytes = base64::engine::general_purpose::STANDARD.decode(hash).ok();
        conditions.keys.push(bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            path.item("verify_certificate_spki", index).error("is not a SHA-256 in base64")
        })?);
    }
    Ok(conditions)
}

fn hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

// === impl Validation ===

impl Validation {
    /// What checks the certificates of clients; those of clients that must have one if `required`.
    pub(super) fn client_verifier(
        self,
        required: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(self.roots, provider).with_crls(self.crls);
        if self.only_leaf_crl {
            builder = builder.only_check_end_entity_revocation();
        }
        if self.suppress_ca_list {
            builder = builder.clear_root_hint_subjects();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let chain = builder.build().map_err(|error| error.to_string())?;
        Ok(Arc::new(ClientVerifier { chain, conditions: self.conditions }))
    }

    /// What checks the chains of upstreams, and the conditions beyond that.
    pub(super) fn server_verifier(
        self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Arc<WebPkiServerVerifier>, Conditions), String> {
        let mut builder = WebPkiServerVerifier::builder_with_provider(self.roots, Arc::clone(provider))
            .with_crls(self.crls);
        if self.only_leaf_crl {
            builder = builder.only_check_end_entity_revocation();
        }
        let chain = builder.build().map_err(|error| error.to_string())?;
        Ok((chain, self.conditions))
    }
}
