//! When connections are told to go.
//!
//! A drain is one flag with a time. Each connection has drawn a moment of the drain time when it was opened
//! ([`super::timer`]); from then on its answers carry `Connection: close` or a GOAWAY goes out. So the clients of a
//! gradual drain come back spread over the whole time instead of all at once, which is what the growing probability of
//! Envoy's gradual strategy is for, and no request draws lots.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::cluster::endpoint::process_clock;

/// How drains go, for the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// How long a drain may take.
    pub time: Duration,
    /// How connections are told within that time.
    pub strategy: DrainStrategy,
}

/// How connections are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Spread evenly over the drain time.
    Gradual,
    /// All at once.
    Immediate,
}

/// The drain of a listener or of the process.
#[derive(Debug)]
pub(crate) struct Drain {
    plan: DrainPlan,
    /// Milliseconds of [`process_clock`]; 0 is "has not begun".
    began: AtomicU64,
}

// === impl Drain ===

impl Drain {
    pub(crate) fn new(plan: DrainPlan) -> Self {
        Self { plan, began: AtomicU64::new(0) }
    }

    /// Begins; a drain that has begun goes on as it was.
    pub(crate) fn begin(&self) {
        let _ = self.began.compare_exchange(0, process_clock(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it is the turn of a connection that drew `turn`, where the whole range of `u32` is the whole drain time.
    pub(crate) fn is_turn(&self, turn: u32) -> bool {
        let began = self.began.load(Ordering::Relaxed);
        if began == 0 {
            return false;
        }
        match self.plan.strategy {
            DrainStrategy::Immediate => true,
            DrainStrategy::Gradual => {
                let elapsed = u128::from(process_clock().saturating_sub(began));
                elapsed << 32 >= self.plan.time.as_millis() * u128::from(turn)
            }
        }
    }
}

// === impl DrainPlan ===

impl Default for DrainPlan {
    fn default() -> Self {
        Self { time: Duration::from_secs(600), strategy: DrainStrategy::Immediate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_tells_connections_evenly_over_its_time() {
        let drain = Drain::new(DrainPlan { time: Duration::from_secs(10), strategy: DrainStrategy::Gradual });
        let told = |drain: &Drain| (0..100).filter(|turn| drain.is_turn(turn * (u32::MAX / 100))).count();
        assert_eq!(told(&drain), 0, "before it begins nobody is told");
        drain.begin();
        for tenth in 1..=10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(told(&drain).abs_diff(tenth * 10) <= 1, "{} after {tenth} s", told(&drain));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beginning_again_does_not_start_over() {
        let drain = Drain::new(DrainPlan { time: Duration::from_secs(2), strategy: DrainStrategy::Gradual });
        drain.begin();
        tokio::time::advance(Duration::from_secs(2)).await;
        drain.begin();
        assert!(drain.is_turn(u32::MAX));
    }
}
