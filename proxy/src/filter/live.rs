//! Chains some of whose filters come from elsewhere, and change while the rest stays (ECDS).
//!
//! # Guarantees
//! * A request sees one state of its chain from its first filter to the last change of its response.
//! * A change makes one filter anew; what the others count or remember stays.
//! * As in Envoy a request to a chain that lacks a filter is answered with 500 before any filter sees it.

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use weft_xds::{
    any,
    pb::{
        envoy::{
            config::core::v3::TypedExtensionConfig,
            extensions::filters::network::http_connection_manager::v3::HttpFilter,
        },
        google::protobuf::Any,
    },
};

use super::{Chain, Filter, Inputs, Kind, Request, Step, chain::Entry};
use crate::{
    config::{ConfigError, Path, names::Names},
    http::exchange::{Reason, Reply},
    worker::upkeep::Upkeeps,
};

/// The filters of a connection manager.
#[derive(Debug)]
pub(crate) enum Filters {
    /// All of them are in its configuration.
    Fixed(Chain),
    /// Some come from elsewhere.
    Live(Arc<LiveChain>),
}

/// The chain that one request passes.
#[derive(Debug, Clone)]
pub(crate) enum ChainRef<'c> {
    Fixed(&'c Chain),
    Live(Arc<Chain>),
}

/// A chain that changes.
#[derive(Debug)]
pub(crate) struct LiveChain {
    stat_prefix: String,
    /// Locked by who writes; canonical.
    places: Mutex<Vec<Place>>,
    current: ArcSwap<Chain>,
}

/// One place in a chain that changes.
#[derive(Debug)]
pub(super) enum Place {
    Fixed(Entry),
    Discovered(Discovered),
}

/// A place whose filter comes from elsewhere.
#[derive(Debug)]
pub(super) struct Discovered {
    name: String,
    disabled: bool,
    /// What the resource is known by.
    key: String,
    /// What the filter may be.
    kinds: Vec<&'static Kind>,
    pub(super) default: Option<Arc<dyn Filter>>,
    /// What the resource says.
    pub(super) filter: Option<Arc<dyn Filter>>,
}

/// Filters that were made and are not in place yet, each with its place.
pub(crate) struct Prepared(Vec<(usize, Arc<dyn Filter>)>);

/// Stands for a filter of which nothing is known.
#[derive(Debug)]
struct Missing;

// === impl Filters ===

impl Filters {
    /// As they are now.
    pub(crate) fn get(&self) -> ChainRef<'_> {
        match self {
            Self::Fixed(chain) => ChainRef::Fixed(chain),
            Self::Live(chain) => ChainRef::Live(chain.current.load_full()),
        }
    }
}

impl Deref for ChainRef<'_> {
    type Target = Chain;

    fn deref(&self) -> &Chain {
        match self {
            Self::Fixed(chain) => chain,
            Self::Live(chain) => chain,
        }
    }
}

// === impl LiveChain ===

impl LiveChain {
    pub(super) fn new(stat_prefix: &str, places: Vec<Place>) -> Self {
        let current = ArcSwap::from_pointee(chain(&places));
        Self { stat_prefix: stat_prefix.to_owned(), places: Mutex::new(places), current }
    }

    /// Makes the filters of the places that have this key from the message of their extension.
    pub(crate) fn prepare(
        &self,
        key: &str,
        path: &Path,
        message: &TypedExtensionConfig,
        names: &mut Names,
        upkeeps: &Upkeeps,
    ) -> Result<Prepared, ConfigError> {
        let counters = Arc::clone(&names.counters);
        let mut inputs = Inputs::new(&self.stat_prefix, &counters, names, upkeeps);
        let mut prepared = Vec::new();
        for (index, place) in self.places.lock().iter().enumerate() {
            if let Place::Discovered(place) = place
                && place.key == key
            {
                prepared.push((index, place.compile_extension(path, message, &mut inputs)?));
            }
        }
        Ok(Prepared(prepared))
    }

    /// Puts filters in place.
    pub(crate) fn fill(&self, prepared: Prepared) {
        let mut places = self.places.lock();
        for (index, filter) in prepared.0 {
            if let Some(Place::Discovered(place)) = places.get_mut(index) {
                place.filter = Some(filter);
            }
        }
        self.current.store(Arc::new(chain(&places)));
    }

    /// The extension of this key is gone.
    pub(crate) fn empty(&self, key: &str) {
        let mut places = self.places.lock();
        for place in places.iter_mut() {
            if let Place::Discovered(place) = place
                && place.key == key
            {
                place.filter = None;
            }
        }
        self.current.store(Arc::new(chain(&places)));
    }
}

fn chain(places: &[Place]) -> Chain {
    let entries: Option<Vec<Entry>> = places.iter().map(Place::entry).collect();
    let missing = || vec![Entry { name: String::new(), disabled: false, filter: Arc::new(Missing) }];
    Chain { entries: entries.unwrap_or_else(missing) }
}

// === impl Place ===

impl Place {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Fixed(entry) => &entry.name,
            Self::Discovered(place) => &place.name,
        }
    }

    pub(super) fn fixed(self) -> Option<Entry> {
        match self {
            Self::Fixed(entry) => Some(entry),
            Self::Discovered(_) => None,
        }
    }

    /// What stands here now, if anything does.
    fn entry(&self) -> Option<Entry> {
        match self {
            Self::Fixed(entry) => Some(entry.clone()),
            Self::Discovered(place) => {
                let filter = Arc::clone(place.filter.as_ref().or(place.default.as_ref())?);
                Some(Entry { name: place.name.clone(), disabled: place.disabled, filter })
            }
        }
    }
}

// === impl Discovered ===

impl Discovered {
    pub(super) fn new(filter: &HttpFilter, key: String, kinds: Vec<&'static Kind>) -> Self {
        let (name, disabled) = (filter.name.clone(), filter.disabled);
        Self { name, disabled, key, kinds, default: None, filter: None }
    }

    pub(super) fn compile_extension(
        &self,
        path: &Path,
        message: &TypedExtensionConfig,
        inputs: &mut Inputs<'_>,
    ) -> Result<Arc<dyn Filter>, ConfigError> {
        let path = path.field("typed_config");
        let config = message.typed_config.as_ref().ok_or_else(|| path.missing())?;
        self.compile(&path, config, inputs)
    }

    pub(super) fn compile(
        &self,
        path: &Path,
        config: &Any,
        inputs: &mut Inputs<'_>,
    ) -> Result<Arc<dyn Filter>, ConfigError> {
        let name = any::type_name(&config.type_url);
        let kind = self.kinds.iter().find(|kind| kind.message == name).ok_or_else(|| {
            let expected: Vec<_> = self.kinds.iter().map(|kind| kind.message).collect();
            path.field("@type").error(format!(
                "{name} is not among the type_urls of {:?}: {}",
                self.name,
                expected.join(", ")
            ))
        })?;
        Ok((kind.compile)(path, config, inputs)?.into())
    }
}

// === impl Missing ===

impl Filter for Missing {
    fn on_request<'r>(&'r self, _request: Request<'r>) -> Step<'r> {
        let mut reply = Reply::new(500, Reason::FilterConfigNotFound, "");
        // Envoy's log says nothing of it but the flag.
        reply.details = Some("".into());
        Step::Reply(Box::new(reply))
    }
}
