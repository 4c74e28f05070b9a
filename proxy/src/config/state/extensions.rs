//! Extensions that listeners ask for by name (ECDS).

use std::collections::BTreeSet;

use weft_xds::pb::envoy::config::core::v3::TypedExtensionConfig;

use super::State;
use crate::config::{ConfigError, Path};

impl State {
    /// Puts an extension in place wherever it is asked for, or nowhere.
    pub(super) fn set_extension(
        &mut self,
        path: &Path,
        key: &str,
        message: TypedExtensionConfig,
    ) -> Result<(), ConfigError> {
        if self.names.extensions.get(key) == Some(&message) {
            return Ok(());
        }
        let mut prepared = Vec::new();
        for chain in self.names.extensions.chains() {
            let filters = chain.prepare(key, path, &message, &mut self.names, &self.shared.upkeeps)?;
            prepared.push((chain, filters));
        }
        for (chain, filters) in prepared {
            chain.fill(filters);
        }
        self.names.extensions.given.insert(key.to_owned(), Some(message));
        self.settle();
        Ok(())
    }

    /// It does not exist, or not any more: defaults count again where there are any.
    pub(super) fn remove_extension(&mut self, key: &str) {
        for chain in self.names.extensions.chains() {
            chain.empty(key);
        }
        self.names.extensions.given.insert(key.to_owned(), None);
        self.settle();
    }

    /// Keys of those that listeners ask for.
    pub(super) fn asked_extensions(&self) -> BTreeSet<String> {
        self.listeners.values().flat_map(|entry| entry.extensions.all.iter().cloned()).collect()
    }

    /// Those in force, by key.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (&String, &TypedExtensionConfig)> {
        let given = self.names.extensions.given.iter();
        given.filter_map(|(key, message)| Some((key, message.as_ref()?)))
    }
}
