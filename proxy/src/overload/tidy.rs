//! Giving freed memory back to the system, when nobody would notice.
//!
//! What connections need while they are busy lies between the little that they keep while they idle, so the allocator
//! keeps it after a burst, and it counts against the limits of the process. Asking for it costs the allocator some
//! milliseconds, in which a thread that allocates may have to wait: so it is asked when there has been work since the last
//! time and there is next to none now.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

use crate::sys;

/// How often to look.
const TURN: Duration = Duration::from_secs(1);
/// A process that used less time of processors than this within a turn is quiet.
const QUIET: Duration = Duration::from_millis(10);
/// Less work than this, all in all, leaves nothing worth asking for.
const WORK: Duration = Duration::from_millis(200);

/// The processor time of the process, at moments that matter.
#[derive(Debug, Default)]
struct Tidy {
    /// At the last look.
    looked: Duration,
    /// When memory was given back last.
    tidied: Duration,
}

/// Looks after the memory of the process until it is dropped.
pub(crate) async fn run() {
    let mut tidy = Tidy::default();
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Ok(used) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) else { return };
        if tidy.is_time(used.into()) {
            sys::trim_heap();
        }
    }
}

// === impl Tidy ===

impl Tidy {
    /// Whether it is time to give memory back, which then happens.
    fn is_time(&mut self, used: Duration) -> bool {
        let quiet = used.saturating_sub(self.looked) < QUIET;
        self.looked = used;
        let worth = used.saturating_sub(self.tidied) >= WORK;
        if quiet && worth {
            self.tidied = used;
        }
        quiet && worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_work_and_never_during_it() {
        let mut tidy = Tidy::default();
        let mut at = |millis| tidy.is_time(Duration::from_millis(millis));
        assert!(!at(100) && !at(105), "too little to be worth it");
        assert!(!at(1_000) && !at(2_000), "busy");
        assert!(at(2_001), "quiet");
        assert!(!at(2_002) && !at(2_003), "nothing since");
        assert!(!at(2_300) && at(2_301), "and after the next work again");
    }
}
