//! `MAGLEV`: a table in which every endpoint has nearly as many entries as its weight says (Eisenbud et al., "Maglev: A
//! Fast and Reliable Software Network Load Balancer", 3.4). More even than a ring, one look-up, a little more disruption.

use super::{bounded::Bound, hash, ring_hash::Key};
use crate::cluster::endpoint::Host;

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maglev {
    /// A prime, much larger than the number of endpoints.
    pub(crate) size: u64,
    pub(crate) key: Key,
}

/// The look-up table.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<u32>,
    bound: Option<Bound>,
}

/// An endpoint while the table is filled.
struct Filler {
    index: u32,
    offset: u64,
    skip: u64,
    /// How much of its order of preference is used up.
    next: u64,
    weight: f64,
    /// The round in which it is to choose again, in weights.
    due: f64,
}

// === impl Maglev ===

impl Maglev {
    /// Envoy's largest table.
    pub(crate) const MOST: u64 = 5_000_011;
}

impl Default for Maglev {
    fn default() -> Self {
        Self { size: 65_537, key: Key::default() }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(settings: &Maglev, hosts: &[Host], weights: &[f64]) -> Self {
        let size = settings.size;
        let mut fillers: Vec<(&str, Filler)> = hosts
            .iter()
            .enumerate()
            .filter(|(index, _)| weights[*index] > 0.0)
            .map(|(index, host)| {
                let key = settings.key.of(host);
                (
                    key,
                    Filler {
                        index: index as u32,
                        offset: hash::xx(key.as_bytes()) % size,
                        skip: hash::xx_seeded(key.as_bytes(), 1) % (size - 1) + 1,
                        next: 0,
                        weight: weights[index],
                        due: 0.0,
                    },
                )
            })
            .collect();
        // Whatever order they are listed in, the table is the same.
        fillers.sort_by_key(|(key, _)| *key);
        let heaviest = fillers.iter().map(|(_, filler)| filler.weight).fold(0.0, f64::max);
        let mut entries = vec![u32::MAX; size as usize];
        let (mut left, mut round) = (size, 1.0);
        while left > 0 && heaviest > 0.0 {
            for (_, filler) in &mut fillers {
                // The heaviest chooses in every round, one with half of its weight in every second.
                if left == 0 || round * filler.weight < filler.due {
                    continue;
                }
                filler.due += heaviest;
                filler.take_entry(&mut entries);
                left -= 1;
            }
            round += 1.0;
        }
        Self { entries, bound: settings.key.bound.map(|factor| Bound::new(factor, weights)) }
    }

    /// For each attempt the entry of another hash.
    pub(super) fn choose(&self, hosts: &[Host], active: u64, hash: u64, attempt: usize) -> usize {
        match &self.bound {
            None => self.nth(hash, attempt),
            Some(bound) => bound.first_with_room(hosts, active, |step| self.nth(hash, attempt + step)),
        }
    }

    fn nth(&self, hash: u64, nth: usize) -> usize {
        let hash = hash ^ 0u64.wrapping_sub(nth as u64);
        self.entries[(hash % self.entries.len() as u64) as usize] as usize
    }
}

// === impl Filler ===

impl Filler {
    /// Takes the first free entry in its order of preference.
    fn take_entry(&mut self, entries: &mut [u32]) {
        let size = entries.len() as u64;
        loop {
            let entry = ((self.offset + self.skip * self.next) % size) as usize;
            self.next += 1;
            if entries[entry] == u32::MAX {
                entries[entry] = self.index;
                return;
            }
        }
    }
}
