//! How many nodes may be emptied at a time, given how many look dead.
//!
//! When one node of many falls silent, the node is at fault. When most do, the fault is more likely here (an API server that
//! takes no leases, a network that is split): then moving all pods would turn a small trouble into a large one.

use std::time::Duration;

use tokio::time::Instant;

use super::assess::Eviction;

/// With this part of the nodes (and more than two) not ready, eviction stops.
const UNHEALTHY: f64 = 0.55;

/// Lets nodes be emptied one after the other.
#[derive(Debug)]
pub(super) struct Limiter {
    interval: Duration,
    next: Option<Instant>,
}

/// What the nodes look like together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disruption {
    /// Most nodes are well.
    None,
    /// Most are not.
    Partial,
    /// None is.
    Full,
}

// === impl Disruption ===

impl Disruption {
    pub(super) fn of(ready: usize, not_ready: usize) -> Self {
        if ready == 0 && not_ready > 0 {
            Self::Full
        } else if not_ready > 2 && not_ready as f64 / (ready + not_ready) as f64 >= UNHEALTHY {
            Self::Partial
        } else {
            Self::None
        }
    }
}

// === impl Limiter ===

impl Limiter {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, next: None }
    }

    /// Whether one more node may be emptied now; if only later, when.
    pub(super) fn ask(&mut self, disruption: Disruption) -> (Eviction, Option<Duration>) {
        match disruption {
            Disruption::Full => return (Eviction::Suspended, None),
            Disruption::Partial => return (Eviction::Held, None),
            Disruption::None => {}
        }
        let now = Instant::now();
        match self.next {
            Some(next) if next > now => (Eviction::Held, Some(next - now)),
            _ => {
                self.next = Some(now + self.interval);
                (Eviction::Allowed, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_stops_when_most_nodes_look_dead() {
        let cases = [
            ((0, 1), Disruption::Full),
            ((1, 1), Disruption::None),
            ((1, 2), Disruption::None),
            ((1, 3), Disruption::Partial),
            ((9, 1), Disruption::None),
            ((4, 6), Disruption::Partial),
            ((0, 0), Disruption::None),
        ];
        for ((ready, not_ready), expected) in cases {
            assert_eq!(Disruption::of(ready, not_ready), expected, "{ready} ready, {not_ready} not");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_are_emptied_one_after_the_other() {
        let mut limiter = Limiter::new(Duration::from_secs(10));
        assert_eq!(limiter.ask(Disruption::None), (Eviction::Allowed, None));
        assert_eq!(limiter.ask(Disruption::None), (Eviction::Held, Some(Duration::from_secs(10))));
        assert_eq!(limiter.ask(Disruption::Full), (Eviction::Suspended, None));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(limiter.ask(Disruption::None), (Eviction::Allowed, None));
    }
}
