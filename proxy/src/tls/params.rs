//! Versions, cipher suites and groups, under the names that OpenSSL and Envoy have for them.

use rustls::{
    CipherSuite, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite as suite, kx_group as group},
    },
    version::{TLS12, TLS13},
};

/// Cipher suites of TLS 1.2; those of 1.3 are not a matter of configuration, as in Envoy.
const CIPHERS: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

const GROUPS: [(&str, &dyn SupportedKxGroup); 6] = [
    ("X25519MLKEM768", group::X25519MLKEM768),
    ("X25519", group::X25519),
    ("P-256", group::SECP256R1),
    ("P-384", group::SECP384R1),
    ("prime256v1", group::SECP256R1),
    ("secp384r1", group::SECP384R1),
];

/// What a side is ready to speak.
#[derive(Debug, Clone)]
pub(crate) struct Params {
    pub(crate) provider: CryptoProvider,
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
}

/// The name of a suite as OpenSSL has it.
pub(super) fn cipher_name(suite: SupportedCipherSuite) -> &'static str {
    let known = CIPHERS.iter().find(|(_, known)| *known == suite);
    known.map_or_else(
        || match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
            _ => "",
        },
        |(name, _)| name,
    )
}

// === impl Params ===

impl Params {
    /// Limits the suites of TLS 1.2 to these names, of which `[a|b]` is a choice of the client's; the error is a name
    /// that is not known.
    pub(crate) fn set_ciphers(&mut self, names: &[String]) -> Result<(), String> {
        let mut chosen: Vec<SupportedCipherSuite> =
            self.provider.cipher_suites.iter().copied().filter(|suite| suite.tls13().is_some()).collect();
        for name in names.iter().flat_map(|name| name.trim_matches(['[', ']']).split('|')) {
            let (_, suite) =
                CIPHERS.iter().find(|(known, _)| *known == name).ok_or_else(|| name.to_owned())?;
            chosen.push(*suite);
        }
        self.provider.cipher_suites = chosen;
        Ok(())
    }

    /// Limits the groups to these, the preferred first; the error is a name that is not known.
    pub(crate) fn set_groups(&mut self, names: &[String]) -> Result<(), String> {
        self.provider.kx_groups = names
            .iter()
            .map(|name| {
                GROUPS
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, group)| *group)
                    .ok_or_else(|| name.clone())
            })
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl Default for Params {
    /// TLS 1.2 and 1.3 with what rustls prefers: a hybrid with ML-KEM-768 first.
    fn default() -> Self {
        Self { provider: aws_lc_rs::default_provider(), versions: vec![&TLS13, &TLS12] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_quantum_group_is_preferred() {
        let params = Params::default();
        assert_eq!(params.provider.kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn an_unknown_name_is_told() {
        let mut params = Params::default();
        assert_eq!(params.set_ciphers(&["AES128-SHA".into()]), Err("AES128-SHA".into()));
        assert_eq!(params.set_groups(&["P-521".into()]), Err("P-521".into()));
        let choice = "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]".to_owned();
        assert_eq!(params.set_ciphers(&[choice]), Ok(()));
        assert_eq!(params.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count(), 2);
    }
}
