//! Layers of runtime values that resources fill (RTDS).
//!
//! As in Envoy nothing listens before they were filled, or waited for long enough: routes and limits may go by them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use weft_xds::pb::envoy::service::runtime::v3::Runtime as ProtoRuntime;

use super::{State, warming::Warming};
use crate::config::{
    ConfigError, Path,
    runtime::{self, Runtime},
    source::{Patience, Source},
};

/// What fills them.
#[derive(Debug)]
pub(crate) struct Layers {
    /// Names, and where those come from.
    pub(super) resources: Vec<(String, Source)>,
    /// What came, by the key of the resource.
    pub(super) given: BTreeMap<String, ProtoRuntime>,
    warming: Warming,
}

// === impl Layers ===

impl Layers {
    /// Names of those that an xDS server has to give.
    pub(super) fn over_ads(&self) -> BTreeSet<String> {
        let over_ads = self.resources.iter().filter(|(_, source)| *source == Source::Ads);
        over_ads.map(|(name, _)| name.clone()).collect()
    }

    /// Whether one of them is still waited for.
    pub(super) fn are_awaited(&self) -> bool {
        let missing = |(name, source): &(String, Source)| !self.given.contains_key(&source.key(name));
        !self.warming.has_ended() && self.resources.iter().any(missing)
    }

    /// Whether the wait for them ends now, in vain.
    pub(super) fn stop_waiting(&mut self, now: Instant) -> bool {
        self.are_awaited() && self.warming.ends(now)
    }
}

impl Default for Layers {
    /// None.
    fn default() -> Self {
        let warming = Warming::new(Patience::default());
        Self { resources: Vec::new(), given: BTreeMap::new(), warming }
    }
}

// === impl State ===

impl State {
    /// Takes note of the resources that fill layers. To be called before there is any listener.
    pub(crate) fn await_runtime(&mut self, runtime: &Runtime) {
        let warming = Warming::new(runtime.patience);
        self.runtime_layers =
            Layers { resources: runtime.resources.clone(), given: BTreeMap::new(), warming };
    }

    pub(super) fn set_runtime(
        &mut self,
        path: &Path,
        key: &str,
        message: ProtoRuntime,
    ) -> Result<(), ConfigError> {
        let values = runtime::resource(path, &message)?;
        self.shared.runtime.fill(key, &values);
        self.runtime_layers.given.insert(key.to_owned(), message);
        self.settle();
        Ok(())
    }

    /// A layer whose resource is gone is empty.
    pub(super) fn remove_runtime(&mut self, key: &str) {
        self.shared.runtime.fill(key, &BTreeMap::new());
        self.runtime_layers.given.insert(key.to_owned(), ProtoRuntime::default());
        self.settle();
    }
}
