//! The policies, and the table that each makes of a group of endpoints.

use super::{
    Chooser, LeastRequest, Maglev, PeakEwma, RingHash, least_request, maglev, peak_ewma, random, ring_hash,
    round_robin,
};
use crate::cluster::endpoint::Host;

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// Of some at random, the one with the fewest requests in flight.
    LeastRequest(LeastRequest),
    /// Of two at random, the one whose answer should come sooner.
    PeakEwma(PeakEwma),
    /// At random, by weight.
    Random,
    /// By hash, on a ring.
    RingHash(RingHash),
    /// By hash, from a table.
    Maglev(Maglev),
}

/// What a policy made of a group of endpoints: immutable, made on a control thread. Indexes are those of the group.
#[derive(Debug)]
pub(super) enum Table {
    RoundRobin(round_robin::Table),
    LeastRequest(least_request::Table),
    PeakEwma(peak_ewma::Table),
    Random(random::Table),
    RingHash(ring_hash::Table),
    Maglev(maglev::Table),
}

/// What a choice within a group goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) chooser: Chooser<'a>,
    /// The group's place in the worker's turns.
    pub(super) slot: usize,
    pub(super) hash: u64,
    /// Requests that the cluster carries, this one included.
    pub(super) active: u64,
    /// 0 for the first choice for a request, and so on while a choice cannot be used.
    pub(super) attempt: usize,
}

// === impl Policy ===

impl Policy {
    /// Whether the hash of a request decides.
    pub(crate) fn is_hash(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// The table for these endpoints, of which there is at least one with a weight that is not 0.
    pub(super) fn table(&self, hosts: &[Host], weights: &[f64]) -> Table {
        match self {
            Self::RoundRobin => Table::RoundRobin(round_robin::Table::new(weights)),
            Self::LeastRequest(settings) => {
                Table::LeastRequest(least_request::Table::new(*settings, weights))
            }
            Self::PeakEwma(settings) => Table::PeakEwma(peak_ewma::Table::new(*settings, weights)),
            Self::Random => Table::Random(random::Table::new(weights)),
            Self::RingHash(settings) => Table::RingHash(ring_hash::Table::new(settings, hosts, weights)),
            Self::Maglev(settings) => Table::Maglev(maglev::Table::new(settings, hosts, weights)),
        }
    }
}

// === impl Table ===

impl Table {
    /// The index of a choice.
    pub(super) fn choose(&self, hosts: &[Host], choice: &Choice<'_>) -> usize {
        let Choice { chooser: Chooser { turns, random, .. }, slot, hash, active, attempt } = *choice;
        match self {
            Self::RoundRobin(table) => table.choose(turns, slot),
            Self::LeastRequest(table) => table.choose(hosts, random),
            Self::PeakEwma(table) => table.choose(hosts, random),
            Self::Random(table) => table.choose(random),
            Self::RingHash(table) => table.choose(hosts, active, hash, attempt),
            Self::Maglev(table) => table.choose(hosts, active, hash, attempt),
        }
    }
}
