//! Tasks that handle requests one after the other.
//!
//! A task per request would be kilobytes to allocate, to fill and to give back for each of them, and so would be its heads
//! and its timer. A lane keeps all that between requests and rests meanwhile; what rests for long without need ends.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use super::stream::{self, Job};
use crate::{http::head::Head, worker::timer::Timer};

/// The lanes of a worker that rest.
#[derive(Default)]
pub(crate) struct Lanes {
    resting: RefCell<Vec<Rc<Lane>>>,
    /// The fewest that rested since the last sweep: nobody needed these.
    spare: Cell<usize>,
}

/// How a resting task is told what to do.
struct Lane {
    order: RefCell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every order is the large one; a box would cost an allocation each"
)]
enum Order {
    Handle(Job),
    End,
}

/// What a task keeps between requests.
pub(super) struct Gear {
    pub(super) request: Head,
    pub(super) response: Head,
    pub(super) timer: Timer,
}

// === impl Lanes ===

impl Lanes {
    /// Handles `job` in a task of its own.
    pub(super) fn start(&self, job: Job) {
        let lane = self.resting.borrow_mut().pop();
        self.spare.set(self.spare.get().min(self.resting.borrow().len()));
        match lane {
            Some(lane) => lane.give(Order::Handle(job)),
            None => {
                tokio::task::spawn_local(Lane::new().run(job));
            }
        }
    }

    /// Ends what was not needed since the last time. To be called about once a second.
    pub(crate) fn sweep(&self) {
        let unneeded: Vec<_> = self.resting.borrow_mut().drain(..self.spare.get()).collect();
        unneeded.iter().for_each(|lane| lane.give(Order::End));
        self.spare.set(self.resting.borrow().len());
    }
}

// === impl Lane ===

impl Lane {
    fn new() -> Rc<Self> {
        Rc::new(Self { order: RefCell::new(None), waker: RefCell::new(None) })
    }

    fn give(&self, order: Order) {
        *self.order.borrow_mut() = Some(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    async fn run(self: Rc<Self>, mut job: Job) {
        let mut gear = Gear {
            request: Head::default(),
            response: Head::default(),
            timer: job.cx.worker.timers.register([]),
        };
        loop {
            // A resting lane must not keep the connection of its last request.
            let worker = Rc::clone(&job.cx.worker);
            stream::run(job, &mut gear).await;
            gear.rest();
            worker.lanes.resting.borrow_mut().push(Rc::clone(&self));
            drop(worker);
            match self.order().await {
                Order::Handle(next) => job = next,
                Order::End => return,
            }
        }
    }

    /// Waits to be told what to do next.
    async fn order(&self) -> Order {
        poll_fn(|cx| match self.order.borrow_mut().take() {
            Some(order) => Poll::Ready(order),
            None => {
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}

// === impl Gear ===

impl Gear {
    /// Between requests: nothing is waited for, and what only a large head needed is given back.
    fn rest(&mut self) {
        self.timer.disarm_all();
        self.request.shrink();
        self.response.shrink();
    }
}
