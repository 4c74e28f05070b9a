//! `RING_HASH`: each endpoint has places on a ring by its weight, a request goes to the next one (Karger et al.,
//! "Consistent Hashing and Random Trees"). When an endpoint comes or goes, only what is nearest to it moves.

use super::{bounded::Bound, hash::HashFunction};
use crate::cluster::endpoint::Host;

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingHash {
    /// Places there are at least: the more, the more even the spread.
    pub(crate) minimum: u64,
    /// Places there are at most.
    pub(crate) maximum: u64,
    pub(crate) function: HashFunction,
    pub(crate) key: Key,
}

/// What endpoints are placed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    /// By name rather than address, where there is one.
    pub(crate) hostname: bool,
    /// Most that one may carry, in percent of the average.
    pub(crate) bound: Option<u32>,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Table {
    /// Places with the index of their endpoint, in the order of their hashes.
    places: Vec<(u64, u32)>,
    bound: Option<Bound>,
    count: usize,
}

// === impl RingHash ===

impl RingHash {
    /// Envoy's largest ring, 8 Mi places.
    pub(crate) const MOST: u64 = 8 << 20;
}

impl Default for RingHash {
    fn default() -> Self {
        Self { minimum: 1024, maximum: Self::MOST, function: HashFunction::Xx, key: Key::default() }
    }
}

// === impl Key ===

impl Key {
    pub(super) fn of<'h>(&self, host: &'h Host) -> &'h str {
        let endpoint = &host.endpoint;
        if self.hostname && !endpoint.hostname.is_empty() {
            &endpoint.hostname
        } else {
            &endpoint.address_text
        }
    }
}

// === impl Table ===

impl Table {
    /// As Envoy builds it: so many places that the lightest endpoint has whole ones, named `ADDRESS_0`, `ADDRESS_1`, …
    pub(super) fn new(settings: &RingHash, hosts: &[Host], weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let least = weights.iter().copied().filter(|weight| *weight > 0.0).fold(total, f64::min) / total;
        let scale = ((least * settings.minimum as f64).ceil() / least).min(settings.maximum as f64);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        let mut target = 0.0;
        let mut text = String::new();
        for (index, host) in hosts.iter().enumerate() {
            target += scale * weights[index] / total;
            let key = settings.key.of(host);
            let mut number = 0;
            while (places.len() as f64) < target {
                text.clear();
                text.push_str(key);
                text.push('_');
                text.push_str(&number.to_string());
                places.push((settings.function.hash(text.as_bytes()), index as u32));
                number += 1;
            }
        }
        places.sort_unstable();
        let bound = settings.key.bound.map(|factor| Bound::new(factor, weights));
        Self { places, bound, count: hosts.len() }
    }

    /// For the `attempt`-th choice, the `attempt`-th other endpoint on the ring.
    pub(super) fn choose(&self, hosts: &[Host], active: u64, hash: u64, attempt: usize) -> usize {
        match &self.bound {
            None => self.nth(hash, attempt),
            Some(bound) => bound.first_with_room(hosts, active, |step| self.nth(hash, attempt + step)),
        }
    }

    fn nth(&self, hash: u64, nth: usize) -> usize {
        let start = self.places.partition_point(|(place, _)| *place < hash);
        let around = self.places[start..].iter().chain(&self.places[..start]).map(|(_, index)| *index);
        let mut seen: Vec<u32> = Vec::new();
        let nth = nth % self.count;
        for index in around {
            if seen.contains(&index) {
                continue;
            }
            if seen.len() == nth {
                return index as usize;
            }
            seen.push(index);
        }
        // Some endpoint has no place.
        seen.first().map_or(0, |first| *first as usize)
    }
}
