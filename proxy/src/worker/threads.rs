//! Starting data threads, and telling them which listeners there are.

use std::{collections::HashMap, io, rc::Rc, sync::Arc, thread::JoinHandle};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{Shared, Worker, panics, timer::RESOLUTION};
use crate::listener::{Bound, accept};

/// The listeners that every worker must accept from; `None` ends the worker.
pub(crate) type Bindings = Option<Arc<Vec<Arc<Bound>>>>;

/// Pools are swept every so many timer sweeps: once a second.
const POOL_SWEEP: u32 = 10;

/// Starts a worker thread; it ends when `bindings` becomes `None` or loses its sender.
pub(crate) fn start(
    index: usize,
    shared: Arc<Shared>,
    bindings: watch::Receiver<Bindings>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        panics::count_in(&shared.caught_panics);
        let runtime = Builder::new_current_thread()
            .enable_all()
            // The default of 61 polls per visit of the reactor is for long queues of tasks that wake each other; here
            // nearly every task comes from the reactor, and looking more often finds more to do at once.
            .event_interval(31)
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(run(index, shared, bindings)),
            Err(error) => tracing::error!(%error, worker = index, "cannot start a worker"),
        }
    })
}

async fn run(index: usize, shared: Arc<Shared>, mut bindings: watch::Receiver<Bindings>) {
    let worker = Rc::new(Worker::new(index, shared));
    worker.timers.sweep();
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    let mut accepting: HashMap<u64, CancellationToken> = HashMap::new();
    loop {
        let Some(wanted) = bindings.borrow_and_update().clone() else { break };
        accepting.retain(|id, stop| {
            let keep = wanted.iter().any(|bound| bound.id == *id);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for bound in wanted.iter() {
            if accepting.contains_key(&bound.id) {
                continue;
            }
            if let Some(socket) = bound.take_socket(index) {
                let stop = CancellationToken::new();
                tokio::task::spawn_local(accept::run(
                    socket,
                    Arc::clone(bound),
                    Rc::clone(&worker),
                    stop.clone(),
                ));
                accepting.insert(bound.id, stop);
            }
        }
        if bindings.changed().await.is_err() {
            break;
        }
    }
    sweeper.abort();
    worker.pools.clear();
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks: u32 = 0;
    let mut interval = tokio::time::interval(RESOLUTION);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        worker.timers.sweep();
        worker.log_lines.flush();
        ticks = ticks.wrapping_add(1);
        // One of them is enough, and at once when the process starts.
        if worker.index == 0 && ticks % POOL_SWEEP == 1 {
            worker.shared.upkeeps.tend(&worker);
        }
        if ticks.is_multiple_of(POOL_SWEEP) {
            worker.update_date();
            worker.pools.sweep();
            worker.lanes.sweep();
        }
    }
}
