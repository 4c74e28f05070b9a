//! Which requests are logged.

use std::time::Duration;

use super::Entry;
use crate::{balance::Random, route::matcher::HeaderMatch};

/// A condition for a line; Envoy's filters.
#[derive(Debug)]
pub(crate) enum Filter {
    Status(Comparison),
    /// In milliseconds.
    Duration(Comparison),
    /// Those that the health check filter did not take for checks.
    NotHealthCheck,
    /// So many of a million.
    Random(u32),
    Header(HeaderMatch),
    /// Any of these flags; any flag at all if there is none.
    Flags(Vec<String>),
    And(Vec<Filter>),
    Or(Vec<Filter>),
}

/// A comparison with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) how: How,
    pub(crate) value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Equal,
    AtLeast,
    AtMost,
    NotEqual,
}

// === impl Filter ===

impl Filter {
    pub(crate) fn passes(&self, entry: &Entry<'_>, random: &Random) -> bool {
        match self {
            Self::Status(comparison) => comparison.holds(u64::from(entry.status)),
            Self::Duration(comparison) => comparison.holds(millis(entry.duration)),
            Self::NotHealthCheck => !entry.record.health_check,
            Self::Random(millionths) => random.below(1_000_000) < *millionths as usize,
            Self::Header(matcher) => entry.request.is_some_and(|head| matcher.matches(head)),
            Self::Flags(wanted) => {
                let flags = entry.record.flags();
                match wanted.as_slice() {
                    [] => !flags.is_empty(),
                    wanted => flags.split(',').any(|flag| wanted.iter().any(|other| other == flag)),
                }
            }
            Self::And(filters) => filters.iter().all(|filter| filter.passes(entry, random)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(entry, random)),
        }
    }
}

// === impl Comparison ===

impl Comparison {
    fn holds(self, value: u64) -> bool {
        match self.how {
            How::Equal => value == self.value,
            How::AtLeast => value >= self.value,
            How::AtMost => value <= self.value,
            How::NotEqual => value != self.value,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
