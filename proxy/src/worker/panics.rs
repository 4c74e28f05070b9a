//! Counting panics on data threads.
//!
//! A panic ends one task, which is one connection or one stream: the runtime catches it, and what the task owned counts
//! itself down as it is dropped. Here it is counted, whichever task it was in and whoever spawned that: a panic hook looks
//! up the counter of the thread that panics. A guard in each task would miss those that libraries spawn.

use std::{
    cell::RefCell,
    panic,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
};

thread_local! {
    static COUNTER: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
}

/// Counts panics of the calling thread in `counter` from now on.
pub(crate) fn count_in(counter: &Arc<AtomicU64>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A thread that ends, or panics in here, has nothing to count in any more.
            let _ = COUNTER.try_with(|counter| {
                if let Ok(counter) = counter.try_borrow()
                    && let Some(counter) = counter.as_ref()
                {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            before(info);
        }));
    });
    COUNTER.set(Some(Arc::clone(counter)));
}

#[cfg(test)]
mod tests {
    use tokio::{runtime::LocalOptions, task::spawn_local};

    use super::*;
    use crate::cluster::breaker::Permit;

    #[test]
    fn a_panic_ends_one_task_gives_back_what_it_held_and_is_counted() {
        let (counter, permits) = (Arc::default(), Arc::default());
        let (counted, used) = (Arc::clone(&counter), Arc::clone(&permits));
        let thread = std::thread::spawn(move || {
            count_in(&counted);
            let runtime = tokio::runtime::Builder::new_current_thread().build_local(LocalOptions::default());
            runtime.expect("a runtime").block_on(async {
                let neighbour = spawn_local(async {
                    tokio::task::yield_now().await;
                    "served"
                });
                let panicking = spawn_local(async move {
                    let _permit = Permit::take(&used, 1).expect("one is free");
                    tokio::task::yield_now().await;
                    panic!("as a test wants it");
                });
                assert!(panicking.await.expect_err("it panics").is_panic());
                assert_eq!(neighbour.await.expect("it does not"), "served");
            });
        });
        thread.join().expect("the thread survives");
        assert_eq!(counter.load(Ordering::Relaxed), 1);
        assert_eq!(permits.load(Ordering::Relaxed), 0);
    }
}
