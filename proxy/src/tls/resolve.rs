//! Which of our certificates a client gets to see.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureAlgorithm,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::names::{BadNames, Names};

/// Our certificates by the names in them: the exact name first, then a wildcard, then whatever there is.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<usize>>,
    /// A client that names nobody is turned away.
    pub(crate) require_name: bool,
}

// === impl Certificates ===

impl Certificates {
    pub(crate) fn add(&mut self, key: CertifiedKey) -> Result<(), BadNames> {
        let index = self.all.len();
        let names = key.cert.first().map(|der| Names::of(der)).transpose()?.unwrap_or_default();
        // With two kinds of key for one name the elliptic one goes first: it costs a tenth.
        let is_rsa = key.key.algorithm() == SignatureAlgorithm::RSA;
        self.all.push(Arc::new(key));
        for name in names.dns {
            let name = name.to_ascii_lowercase();
            let list = match name.strip_prefix("*.") {
                Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                None => self.exact.entry(name).or_default(),
            };
            let rsa_from =
                list.iter().position(|index| self.all[*index].key.algorithm() == SignatureAlgorithm::RSA);
            match rsa_from.filter(|_| !is_rsa) {
                Some(position) => list.insert(position, index),
                None => list.push(index),
            }
        }
        Ok(())
    }

    /// The first certificate, which stands for us where only one can.
    pub(crate) fn first(&self) -> Option<&CertifiedKey> {
        self.all.first().map(|key| &**key)
    }

    /// In the order in which they are tried. That all of them are, for a name that none of them has too, is what Envoy
    /// does with `full_scan_certs_on_sni_mismatch`; without it its first certificate must do.
    fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.exact.get(name));
        let wildcard = name
            .as_ref()
            .and_then(|name| name.split_once('.'))
            .and_then(|(_, suffix)| self.wildcard.get(suffix));
        let named = exact.into_iter().chain(wildcard).flatten().filter_map(|index| self.all.get(*index));
        named.chain(&self.all)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        if name.is_none() && self.require_name {
            return None;
        }
        self.candidates(name)
            .find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some())
            .map(Arc::clone)
    }
}
