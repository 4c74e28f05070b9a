//! `typed_per_filter_config`: what routes say about filters.

use std::sync::Arc;

use super::Settings;
use crate::route::Route;

/// What one route, or one weighted cluster, says about filters, outer levels first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(Vec<Arc<Override>>);

/// What one level says about one filter.
#[derive(Debug)]
pub(super) struct Override {
    /// The filter's name in the chain.
    pub(super) filter: String,
    /// `None` switches the filter off.
    pub(super) settings: Option<Settings>,
}

/// What all levels say about one filter.
#[derive(Clone, Copy)]
pub(crate) struct Own<'r> {
    name: &'r str,
    levels: [&'r [Arc<Override>]; 2],
}

// === impl Overrides ===

impl Overrides {
    /// These, and inside them those of the next level.
    pub(super) fn with(&self, inner: Vec<Override>) -> Self {
        Self(self.0.iter().cloned().chain(inner.into_iter().map(Arc::new)).collect())
    }
}

// === impl Own ===

impl<'r> Own<'r> {
    pub(super) fn new(name: &'r str, route: Option<&'r Route>, weighted: Option<&'r Overrides>) -> Self {
        let route = route.map_or(&[][..], |route| route.overrides.0.as_slice());
        Self { name, levels: [route, weighted.map_or(&[][..], |weighted| weighted.0.as_slice())] }
    }

    /// The name of the filter in the chain.
    pub(super) fn name(&self) -> &'r str {
        self.name
    }

    /// Whether the filter is off. Naming it on a route switches it on.
    pub(super) fn is_disabled(&self, by_default: bool) -> bool {
        self.entries().next_back().map_or(by_default, |own| own.settings.is_none())
    }

    /// The settings of the most specific level that has any.
    pub(super) fn most_specific<T: 'static>(&self) -> Option<&'r T> {
        self.all().next_back()
    }

    /// The settings of every level, the most specific last.
    pub(super) fn all<T: 'static>(&self) -> impl DoubleEndedIterator<Item = &'r T> + use<'r, T> {
        self.entries().filter_map(|own| own.settings.as_ref()?.downcast_ref::<T>())
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = &'r Override> + use<'r> {
        let name = self.name;
        let levels: [&'r [Arc<Override>]; 2] = self.levels;
        levels.into_iter().flatten().map(|own| &**own).filter(move |own| own.filter == name)
    }
}
