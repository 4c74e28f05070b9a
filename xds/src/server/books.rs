//! When things happened on one stream: the session has no clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::resource::ResourceType;

/// What to wait for an answer longer than makes a proxy a laggard.
pub(super) const LAGGARD_AFTER: Duration = Duration::from_secs(1);

/// The times of one stream.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) opened: SystemTime,
    /// When the newest snapshot was handed over.
    changed: Instant,
    /// Indexed by type.
    types: [TypeTimes; ResourceType::ALL.len()],
}

/// The times of one type on one stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TypeTimes {
    pub(super) sent: Option<SystemTime>,
    pub(super) accepted: Option<SystemTime>,
    pub(super) refused: Option<SystemTime>,
    /// The response that is not answered yet.
    flight: Option<Flight>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    sent: Instant,
    /// When the newest of what is in it came to be known here.
    changed: Instant,
}

// === impl Books ===

impl Books {
    pub(super) fn open() -> Self {
        Self { opened: SystemTime::now(), changed: Instant::now(), types: Default::default() }
    }

    pub(super) fn changed(&mut self) {
        self.changed = Instant::now();
    }

    pub(super) fn sent(&mut self, type_: ResourceType) {
        let times = &mut self.types[type_.index()];
        times.sent = Some(SystemTime::now());
        times.flight = Some(Flight { sent: Instant::now(), changed: self.changed });
    }

    /// Takes note of an answer and tells how long it took.
    pub(super) fn answered(&mut self, type_: ResourceType, accepted: bool) -> Option<Duration> {
        let times = &mut self.types[type_.index()];
        let now = Some(SystemTime::now());
        if accepted {
            times.accepted = now;
        } else {
            times.refused = now;
        }
        times.flight.take().map(|flight| flight.sent.elapsed())
    }

    pub(super) fn of(&self, type_: ResourceType) -> TypeTimes {
        self.types[type_.index()]
    }

    /// The type of the response that waits longest for its answer, and how long.
    pub(super) fn longest_unanswered(&self) -> Option<(ResourceType, Duration)> {
        let waiting = |type_| Some((type_, self.of(type_).flight?.sent.elapsed()));
        ResourceType::ALL.into_iter().filter_map(waiting).max_by_key(|(_, waits)| *waits)
    }

    /// How long the oldest change waits for an answer; `None` if all is answered.
    pub(super) fn oldest_unanswered(&self) -> Option<Duration> {
        self.types.iter().filter_map(|times| times.flight).map(|flight| flight.changed.elapsed()).max()
    }
}
