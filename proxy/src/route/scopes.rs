//! Route tables by what a request says of its scope (scoped routes).
//!
//! A request has a key, made of parts of its fields. A scope has one as well, and a route table. Without any of these a
//! request has no route.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{RouteSlot, table::RouteTable};
use crate::http::head::Head;

/// Where a connection manager finds its route table.
#[derive(Debug)]
pub(crate) enum Routes {
    /// The same for all requests.
    One(Arc<RouteSlot>),
    Scoped(ScopedRoutes),
}

/// Route tables by key.
#[derive(Debug)]
pub(crate) struct ScopedRoutes {
    /// What the key of a request is made of.
    pub(crate) builder: Vec<Extractor>,
    pub(crate) scopes: Arc<Scopes>,
}

/// All scopes of a connection manager; updates replace them.
#[derive(Debug, Default)]
pub(crate) struct Scopes(ArcSwap<HashMap<Key, Arc<RouteSlot>>>);

/// Of a request or a scope, in order.
pub(crate) type Key = Vec<Vec<u8>>;

/// Takes one part of a key from a field.
#[derive(Debug)]
pub(crate) struct Extractor {
    /// In lower case.
    pub(crate) field: Vec<u8>,
    /// Between elements of the value; empty if it has but one.
    pub(crate) separator: Vec<u8>,
    pub(crate) pick: Pick,
}

/// Which element.
#[derive(Debug)]
pub(crate) enum Pick {
    Index(usize),
    /// The value behind this key, of the first element that has it.
    Keyed {
        key: Vec<u8>,
        separator: Vec<u8>,
    },
}

// === impl Routes ===

impl Routes {
    /// The table for a request, if there is one.
    pub(crate) fn table(&self, request: &Head) -> Option<Arc<RouteTable>> {
        match self {
            Self::One(slot) => slot.get(),
            Self::Scoped(scoped) => {
                let key: Option<Key> =
                    scoped.builder.iter().map(|part| Some(part.extract(request)?.to_vec())).collect();
                scoped.scopes.0.load().get(&key?)?.get()
            }
        }
    }

    /// Whether any of its routes is for CONNECT requests.
    pub(crate) fn connects(&self) -> bool {
        let connects = |slot: &Arc<RouteSlot>| slot.get().is_some_and(|table| table.connects);
        match self {
            Self::One(slot) => connects(slot),
            Self::Scoped(scoped) => scoped.scopes.0.load().values().any(connects),
        }
    }
}

// === impl Scopes ===

impl Scopes {
    pub(crate) fn set(&self, scopes: HashMap<Key, Arc<RouteSlot>>) {
        self.0.store(Arc::new(scopes));
    }
}

// === impl Extractor ===

impl Extractor {
    fn extract<'h>(&self, request: &'h Head) -> Option<&'h [u8]> {
        // As in Envoy only the first of several fields of the name counts.
        let value = request.get(&self.field)?;
        match &self.pick {
            Pick::Index(index) => split(value, &self.separator).nth(*index),
            Pick::Keyed { key, separator } => split(value, &self.separator).find_map(|element| {
                let mut parts = split(element, separator);
                let found = parts.next()?;
                let rest = element.get(found.len() + separator.len()..).unwrap_or_default();
                (found == key).then_some(rest)
            }),
        }
    }
}

/// The parts between separators; all of it if the separator is empty.
fn split<'t, 's>(text: &'t [u8], separator: &'s [u8]) -> impl Iterator<Item = &'t [u8]> + use<'t, 's> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = (!separator.is_empty())
            .then(|| text.windows(separator.len()).position(|window| window == separator))
            .flatten();
        rest = end.map(|end| &text[end + separator.len()..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(separator: &str, pick: Pick, value: &str) -> Option<String> {
        let mut head = Head::default();
        head.append(b"x-scope", value.as_bytes());
        let extractor = Extractor { field: b"x-scope".to_vec(), separator: separator.into(), pick };
        extractor.extract(&head).map(|found| String::from_utf8_lossy(found).into_owned())
    }

    #[test]
    fn a_part_of_a_field_is_found_by_place_or_key() {
        let keyed = || Pick::Keyed { key: b"k".to_vec(), separator: b"=".to_vec() };
        assert_eq!(extract("", Pick::Index(0), "a,b").as_deref(), Some("a,b"));
        assert_eq!(extract(",", Pick::Index(1), "a,b,c").as_deref(), Some("b"));
        assert_eq!(extract(",", Pick::Index(3), "a,b,c"), None);
        assert_eq!(extract("::", Pick::Index(1), "a::").as_deref(), Some(""));
        assert_eq!(extract(";", keyed(), "x=1;k=a=b;k=c").as_deref(), Some("a=b"));
        assert_eq!(extract(";", keyed(), "k").as_deref(), Some(""));
        assert_eq!(extract(";", keyed(), "kk=1"), None);
    }
}
