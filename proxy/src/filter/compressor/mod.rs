//! `compressor`: makes answers smaller for clients that say they can read them so.
//!
//! Source: Envoy's `envoy.extensions.filters.http.compressor.v3` and its filter. Which of several compressors in a chain
//! does it is decided by all of them together, so each knows the others.

mod choice;
mod coder;
mod config;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use choice::{Choice, Why, choose};
use coder::{Coder, Library};
pub(super) use config::KIND;

use super::{Filter, Request, Response, Step};
use crate::{
    http::exchange::Context,
    http::{
        h1::framing::BodyLength,
        head::{Head, Known, tokens},
    },
    metrics::CounterSet,
    route::matcher::TextMatch,
    runtime::Flag,
};

const COUNTERS: [&str; 5] = [
    "compressed",
    "not_compressed",
    "total_uncompressed_bytes",
    "total_compressed_bytes",
    "content_length_too_small",
];
const COMPRESSED: usize = 0;
const NOT_COMPRESSED: usize = 1;
const UNCOMPRESSED_BYTES: usize = 2;
const COMPRESSED_BYTES: usize = 3;
const TOO_SMALL: usize = 4;

const ASKED_COUNTERS: [&str; 7] = [
    "no_accept_header",
    "header_identity",
    "header_compressor_used",
    "header_compressor_overshadowed",
    "header_wildcard",
    "header_not_valid",
    "not_compressed_etag",
];
const NO_ACCEPT: usize = 0;
const IDENTITY: usize = 1;
const USED: usize = 2;
const OVERSHADOWED: usize = 3;
const WILDCARD: usize = 4;
const NOT_VALID: usize = 5;
const ETAG: usize = 6;

const ACCEPT_ENCODING: &[u8] = b"accept-encoding";
const CONTENT_ENCODING: &[u8] = b"content-encoding";
const VARY: &[u8] = b"vary";

/// The filter.
#[derive(Debug)]
struct Compressor {
    spec: Arc<Spec>,
    /// All of the chain, this one among them; set when the chain is complete.
    chain: Arc<Peers>,
}

/// The compressors of a chain, in their order.
pub(super) type Peers = OnceLock<Vec<Arc<Spec>>>;

/// What is configured.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its place among the compressors of the chain.
    place: usize,
    library: Library,
    choose_first: bool,
    enabled: Flag,
    min_length: u64,
    types: Types,
    etag: Etag,
    remove_accept_encoding: bool,
    uncompressible: BTreeSet<u16>,
    stats: Arc<CounterSet>,
    asked: Arc<CounterSet>,
}

/// Which media types are compressed.
#[derive(Debug)]
enum Types {
    /// Each in lower case.
    Listed(Vec<String>),
    Matching(Vec<TextMatch>),
}

/// What is done about an answer that says which version it is, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Etag {
    /// It is not compressed.
    Keep,
    /// It does not say so any more.
    Remove,
    Weaken,
}

/// What a route says.
#[derive(Debug, Default)]
struct OfRoute {
    enabled: Option<bool>,
    remove_accept_encoding: Option<bool>,
}

// === impl Compressor ===

impl Filter for Compressor {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let own = request.own.most_specific::<OfRoute>();
        let remove =
            own.and_then(|own| own.remove_accept_encoding).unwrap_or(self.spec.remove_accept_encoding);
        if remove
            && self.is_enabled(own, request.cx)
            && let Some(asked) = accept_encoding(request.head)
        {
            request.record.accepted = Some(Box::new((self.spec.place, asked)));
            request.head.remove(ACCEPT_ENCODING);
        }
        Step::Continue
    }

    fn on_response(&self, response: Response<'_>) {
        let spec = &*self.spec;
        let worker = response.cx.worker.index;
        let enabled = self.is_enabled(response.own.most_specific::<OfRoute>(), response.cx);
        let large_enough = enabled && spec.is_large_enough(&response);
        let compressible = large_enough && spec.is_compressible(response.head, worker);
        let accepted = large_enough && response.body.length != BodyLength::Empty && self.is_chosen(&response);
        let head = response.head;
        if compressible && accepted {
            spec.stats.add(worker, COMPRESSED);
            spec.etag.apply(head);
            // An earlier filter's change has no length yet.
            let length = match response.body.length {
                BodyLength::Exact(length) if response.body.changes.is_empty() => Some(length),
                _ => None,
            };
            head.append(CONTENT_ENCODING, spec.library.name().as_bytes());
            head.remove_known(Known::ContentLength);
            let coder = Coder::new(&spec.library, length, Arc::clone(&spec.stats), worker);
            response.body.changes.push(Box::new(coder));
        } else {
            spec.stats.add(worker, NOT_COMPRESSED);
        }
        // For another client this answer may be a smaller one: caches must know.
        if compressible {
            vary(head);
        }
    }
}

impl Compressor {
    fn is_enabled(&self, own: Option<&OfRoute>, cx: &Context) -> bool {
        let configured = || self.spec.enabled.of(&cx.worker.shared.runtime);
        own.and_then(|own| own.enabled).unwrap_or_else(configured)
    }

    /// Whether this is the compressor of the chain that the client gets.
    fn is_chosen(&self, response: &Response<'_>) -> bool {
        let (asked, worker) = (&self.spec.asked, response.cx.worker.index);
        let captured = response.record.accepted.as_deref();
        let accepted = match captured {
            _ if !response.saw_request => None,
            // Those behind the one that took it out have never seen it.
            Some((place, value)) => (self.spec.place <= *place).then(|| value.clone()),
            None => accept_encoding(response.request),
        };
        let Some(accepted) = accepted else {
            asked.add(worker, NO_ACCEPT);
            return false;
        };
        let chain = self.chain.get().map_or(&[][..], Vec::as_slice);
        let media = response.head.known(Known::ContentType).map(media_type);
        let candidates = chain.iter().filter(|spec| media.is_none_or(|media| spec.types.contain(media)));
        let Choice { coding, why } =
            choose(&accepted, candidates.map(|spec| (spec.library.name(), spec.choose_first)));
        let chosen = coding == Some(self.spec.library.name());
        asked.add(
            worker,
            match why {
                Why::Named if chosen => USED,
                Why::Named => OVERSHADOWED,
                Why::Identity => IDENTITY,
                Why::Wildcard => WILDCARD,
                Why::NotValid => NOT_VALID,
            },
        );
        chosen
    }
}

/// What the client can read, all fields in one.
fn accept_encoding(head: &Head) -> Option<Vec<u8>> {
    let fields: Vec<_> = head.get_all(ACCEPT_ENCODING).collect();
    (!fields.is_empty()).then(|| fields.join(&b","[..]))
}

/// A media type without its parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn vary(head: &mut Head) {
    let before: Vec<_> = head.get_all(VARY).collect();
    if before.iter().flat_map(|value| tokens(value)).any(|name| name.eq_ignore_ascii_case(ACCEPT_ENCODING)) {
        return;
    }
    let mut list = before.join(&b", "[..]);
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(b"Accept-Encoding");
    head.set(VARY, &list);
}

// === impl Spec ===

impl Spec {
    fn is_large_enough(&self, response: &Response<'_>) -> bool {
        let body = &response.body;
        let length = match (response.head.known(Known::ContentLength), body.local, body.length) {
            (Some(text), ..) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).or(Some(0)),
            (None, Some(local), _) if !local.is_empty() => Some(local.len() as u64),
            (None, None, BodyLength::Exact(length)) if body.changes.is_empty() => Some(length),
            _ => None,
        };
        let large = length.is_none_or(|length| length >= self.min_length);
        if !large {
            self.stats.add(response.cx.worker.index, TOO_SMALL);
        }
        large
    }

    fn is_compressible(&self, head: &Head, worker: usize) -> bool {
        let transformable = || {
            let mut tokens = head.get_all(b"cache-control").flat_map(tokens);
            !tokens.any(|token| token.eq_ignore_ascii_case(b"no-transform"))
        };
        if head.known(Known::ContentType).is_some_and(|value| !self.types.contain(media_type(value)))
            || !transformable()
        {
            return false;
        }
        if self.etag == Etag::Keep && head.get(b"etag").is_some() {
            self.asked.add(worker, ETAG);
            return false;
        }
        head.get(CONTENT_ENCODING).is_none() && !self.uncompressible.contains(&head.status)
    }
}

// === impl Types ===

impl Types {
    fn contain(&self, media: &[u8]) -> bool {
        match self {
            Self::Listed(types) => types.iter().any(|known| media.eq_ignore_ascii_case(known.as_bytes())),
            Self::Matching(matchers) => matchers.iter().any(|matcher| matcher.matches(media)),
        }
    }
}

// === impl Etag ===

impl Etag {
    fn apply(self, head: &mut Head) {
        let Some(value) = head.get(b"etag") else { return };
        if value.len() <= 2 || value.starts_with(b"W/") || value.starts_with(b"w/") {
            return;
        }
        match self {
            Self::Weaken => {
                let weak = [b"W/", value].concat();
                head.set(b"etag", &weak);
            }
            Self::Remove | Self::Keep => head.remove(b"etag"),
        }
    }
}
