//! How long a container that keeps ending waits before it is started again.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use crate::runtime::Exit;

/// Delay of the second restart in a row; the first one is immediate, as in Kubernetes.
const BASE: Duration = Duration::from_secs(10);
/// The longest delay.
const MAX: Duration = Duration::from_secs(300);
/// A container that ran for so long is taken as healthy: its next end is the first one again.
const HEALTHY: Duration = Duration::from_secs(600);

/// The containers of one pod. Kept in memory only: after a restart of the agent the count begins from the attempts
/// made so far, which errs towards waiting.
#[derive(Debug, Default)]
pub(crate) struct RestartBackoff {
    /// Ends in a row, with the attempt that was counted last, by container.
    ends: HashMap<String, Ends>,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    attempt: u32,
    in_a_row: u32,
}

// === impl RestartBackoff ===

impl RestartBackoff {
    /// When the container whose instance `attempt` ended may be started again. The same end may be asked about often.
    pub(crate) fn restart_at(&mut self, name: &str, attempt: u32, exit: &Exit) -> Timestamp {
        let ran =
            exit.started_at.and_then(|start| Duration::try_from(exit.finished_at.duration_since(start)).ok());
        let healthy = ran.is_some_and(|ran| ran >= HEALTHY);
        let ends = self.ends.entry(name.to_owned()).or_insert(Ends { attempt, in_a_row: attempt });
        if ends.attempt != attempt {
            *ends = Ends { attempt, in_a_row: ends.in_a_row + 1 };
        }
        if healthy {
            ends.in_a_row = 0;
        }
        exit.finished_at.checked_add(delay(ends.in_a_row)).unwrap_or(Timestamp::MAX)
    }
}

/// The delay after so many ends before this one.
fn delay(ends_before: u32) -> Duration {
    match ends_before.checked_sub(1) {
        None => Duration::ZERO,
        // 10 s * 2^5 is past the maximum; the cap keeps the shift from overflowing.
        Some(doublings) => (BASE * (1 << doublings.min(5))).min(MAX),
    }
}

/// The same for attempts that have no end to count from: images that cannot be pulled, containers not created.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    delay(failures.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(ran: i64) -> Exit {
        let finished_at = Timestamp::from_second(1_000_000).expect("valid");
        Exit {
            code: 1,
            signal: None,
            oom_killed: false,
            error: None,
            started_at: Some(finished_at - jiff::SignedDuration::from_secs(ran)),
            finished_at,
        }
    }

    fn wait(backoff: &mut RestartBackoff, attempt: u32, ran: i64) -> i64 {
        let exit = exit(ran);
        backoff.restart_at("c", attempt, &exit).duration_since(exit.finished_at).as_secs()
    }

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = RestartBackoff::default();
        let waits: Vec<i64> = (0..8).map(|attempt| wait(&mut backoff, attempt, 1)).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn asking_twice_about_one_end_counts_it_once() {
        let mut backoff = RestartBackoff::default();
        wait(&mut backoff, 0, 1);
        assert_eq!(wait(&mut backoff, 1, 1), 10);
        assert_eq!(wait(&mut backoff, 1, 1), 10);
    }

    #[test]
    fn ten_minutes_of_health_start_the_count_over() {
        let mut backoff = RestartBackoff::default();
        for attempt in 0..4 {
            wait(&mut backoff, attempt, 1);
        }
        assert_eq!(wait(&mut backoff, 4, 600), 0);
        assert_eq!(wait(&mut backoff, 5, 1), 10);
    }

    #[test]
    fn an_agent_that_was_restarted_goes_on_where_the_attempts_are() {
        assert_eq!(wait(&mut RestartBackoff::default(), 3, 1), 40);
    }
}
