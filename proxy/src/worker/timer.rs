//! Timeouts without a timer per request.
//!
//! A task that can time out owns a [`Timer`]: a handful of deadlines in plain cells. Arming one is a store. A sweep of
//! the worker, ten times a second, wakes the tasks with a deadline that passed; the future that waits then sees for
//! itself that its deadline is over. So a timeout is late by up to [`RESOLUTION`], which none of ours minds.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::drain::Drain;

/// How often deadlines are looked at.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(100);
/// How long an idle connection is left open after a drain began: its next request, answered with
/// `Connection: close`, is then the orderly end; closing at once would race with a request on its way.
/// In steps of [`RESOLUTION`].
const IDLE_GRACE: u32 = 5;

/// What a deadline is for; each task has one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// Bytes from the client: head, body or the next request.
    Downstream,
    /// Bytes that the client must take.
    Send,
    /// Connecting, and bytes that the upstream must take.
    Upstream,
    /// Bytes that the upstream must send.
    Response,
    /// The whole exchange.
    Route,
}

const DEADLINES: usize = 5;

/// A clock that stands still between sweeps: milliseconds since its worker started. Reading it costs nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct CoarseClock(Rc<Cell<u64>>);

/// All timers of a worker.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    registered: RefCell<Vec<Weak<Slot>>>,
    /// Set by the sweep; no deadline needs a better clock.
    now: CoarseClock,
    origin: Cell<Option<Instant>>,
    /// How many timers there were.
    count: Cell<u32>,
}

/// The deadlines of one task.
#[derive(Debug, Clone)]
pub(crate) struct Timer {
    slot: Rc<Slot>,
}

struct Slot {
    /// Milliseconds since the origin; `u64::MAX` is "not armed".
    deadlines: [Cell<u64>; DEADLINES],
    waker: Cell<Option<Waker>>,
    now: CoarseClock,
    /// Tell that connections of this kind are to end: that of the listener and that of the process.
    drains: [Option<Arc<Drain>>; 2],
    /// When the sweep first saw the drain, in steps of [`RESOLUTION`]; `u32::MAX` is "not yet".
    drain_seen: Cell<u32>,
    /// When in a gradual drain this one is told.
    turn: u16,
    /// Set while the task waits for a request that need not come.
    idle: Cell<bool>,
    /// Set when a drain caught the task idle; it then ends.
    retired: Cell<bool>,
}

/// The deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

// === impl CoarseClock ===

impl CoarseClock {
    pub(crate) fn millis(&self) -> u64 {
        self.0.get()
    }
}

// === impl Timers ===

impl Timers {
    /// The clock that deadlines are measured by.
    pub(crate) fn clock(&self) -> CoarseClock {
        self.now.clone()
    }

    /// A timer for the current task. It ends early, when idle, once one of `drains`, two at most, comes to it.
    pub(crate) fn register(&self, drains: impl IntoIterator<Item = Arc<Drain>>) -> Timer {
        let mut drains = drains.into_iter();
        let drains = [drains.next(), drains.next()];
        self.count.set(self.count.get().wrapping_add(1));
        let slot = Rc::new(Slot {
            deadlines: [const { Cell::new(u64::MAX) }; DEADLINES],
            waker: Cell::new(None),
            now: self.now.clone(),
            drains,
            drain_seen: Cell::new(u32::MAX),
            // Multiples of the golden ratio fill the range evenly, whichever connections happen to be open.
            turn: (self.count.get().wrapping_mul(0x9E37_79B9) >> 16) as u16,
            idle: Cell::new(false),
            retired: Cell::new(false),
        });
        self.registered.borrow_mut().push(Rc::downgrade(&slot));
        Timer { slot }
    }

    /// Reads the clock and wakes whoever is late. To be called every [`RESOLUTION`].
    pub(crate) fn sweep(&self) {
        let origin = self.origin.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.origin.set(Some(now));
            now
        });
        let now = u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.now.0.set(now);
        let mut late = Vec::new();
        self.registered.borrow_mut().retain(|slot| match slot.upgrade() {
            None => false,
            Some(slot) => {
                if slot.is_due(now) {
                    let waker = slot.waker.take();
                    late.extend(waker.clone());
                    slot.waker.set(waker);
                }
                true
            }
        });
        // Outside the borrow: waking may run anything.
        late.into_iter().for_each(Waker::wake);
    }
}

// === impl Timer ===

impl Timer {
    /// The time since the worker started, as of the last sweep.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.slot.now.millis())
    }

    /// Arms a deadline; `None` disarms it.
    pub(crate) fn arm(&self, which: Deadline, after: Option<Duration>) {
        let deadline = after.map_or(u64::MAX, |after| {
            let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX / 2);
            // One more step, because `now` may be a step old: never early.
            self.slot.now.millis().saturating_add(after).saturating_add(RESOLUTION.as_millis() as u64)
        });
        self.slot.deadlines[which as usize].set(deadline);
    }

    /// Disarms a deadline.
    pub(crate) fn disarm(&self, which: Deadline) {
        self.slot.deadlines[which as usize].set(u64::MAX);
    }

    /// Disarms every deadline.
    pub(crate) fn disarm_all(&self) {
        self.slot.deadlines.iter().for_each(|deadline| deadline.set(u64::MAX));
    }

    /// Remembers whom to wake; to be called from the task's polls that may wait for a deadline.
    pub(crate) fn check(&self, which: Deadline, cx: &Context<'_>) -> Result<(), Elapsed> {
        let known = self.slot.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.slot.waker.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        let passed = |which: Deadline| self.slot.deadlines[which as usize].get() <= self.slot.now.millis();
        if passed(which) || self.is_retired() { Err(Elapsed) } else { Ok(()) }
    }

    /// Says whether the task has nothing in hand, so that a drain may end it.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.slot.idle.set(idle);
    }

    /// Whether a drain applies to this task.
    pub(crate) fn is_draining(&self) -> bool {
        self.slot.is_draining()
    }

    /// Whether a drain found the task idle.
    pub(crate) fn is_retired(&self) -> bool {
        self.slot.retired.get() && self.slot.idle.get()
    }

    /// A future with the end of `which` put on it.
    pub(crate) async fn limit<T>(
        &self,
        which: Deadline,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => match self.check(which, cx) {
                Ok(()) => Poll::Pending,
                Err(elapsed) => Poll::Ready(Err(elapsed)),
            },
        })
        .await
    }
}

// === impl Slot ===

impl Slot {
    fn is_draining(&self) -> bool {
        let turn = u32::from(self.turn) << 16;
        self.drains.iter().flatten().any(|drain| drain.is_turn(turn))
    }

    fn is_due(&self, now: u64) -> bool {
        if self.drain_seen.get() == u32::MAX && self.is_draining() {
            self.drain_seen.set(steps(now));
        }
        // What was not seen lies in the future.
        if self.idle.get() && steps(now).saturating_sub(self.drain_seen.get()) >= IDLE_GRACE {
            self.retired.set(true);
        }
        self.retired.get() || self.deadlines.iter().any(|deadline| deadline.get() <= now)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

fn steps(millis: u64) -> u32 {
    u32::try_from(millis / RESOLUTION.as_millis() as u64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::drain::DrainPlan;

    #[test]
    fn a_timer_is_small() {
        // There is one for each connection, with two counters of its owners.
        assert!(size_of::<Slot>() + 2 * size_of::<usize>() <= 104, "{}", size_of::<Slot>());
    }

    async fn sweeping<T>(timers: &Timers, future: impl Future<Output = T>) -> T {
        let sweep = async {
            loop {
                timers.sweep();
                tokio::time::sleep(RESOLUTION).await;
            }
        };
        tokio::select! { value = future => value, () = sweep => unreachable!("the sweep never ends") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_wait_never_early_and_at_most_two_steps_late() {
        let timers = Timers::default();
        let timer = timers.register([]);
        let started = Instant::now();
        let result = sweeping(&timers, async {
            timer.arm(Deadline::Route, Some(Duration::from_secs(2)));
            timer.limit(Deadline::Route, std::future::pending::<()>()).await
        });
        assert_eq!(result.await, Err(Elapsed));
        let late = started.elapsed() - Duration::from_secs(2);
        assert!(late <= 3 * RESOLUTION, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_retires_the_idle_only() {
        let timers = Timers::default();
        let drain = Arc::new(Drain::new(DrainPlan::default()));
        let busy = timers.register([Arc::clone(&drain)]);
        let idle = timers.register([Arc::clone(&drain)]);
        idle.set_idle(true);
        drain.begin();
        sweeping(&timers, async {
            assert_eq!(idle.limit(Deadline::Downstream, std::future::pending::<()>()).await, Err(Elapsed));
        })
        .await;
        assert!(idle.is_retired() && !busy.is_retired() && busy.is_draining());
    }
}
