use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

async fn is_empty<K: Clone + Eq + Hash>(queue: &WorkQueue<K>) -> bool {
    tokio::time::timeout(Duration::ZERO, queue.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_key_added_twice_is_worked_on_once() {
    let queue = WorkQueue::new();
    queue.add("a");
    queue.add("a");
    assert_eq!(queue.next().await, "a");
    assert!(is_empty(&queue).await);
}

#[tokio::test(start_paused = true)]
async fn a_key_added_during_its_work_comes_back_afterwards_and_not_before() {
    let queue = WorkQueue::new();
    queue.add("a");
    assert_eq!(queue.next().await, "a");
    queue.add("a");
    assert!(is_empty(&queue).await);
    queue.done(&"a", Outcome::Done(None));
    assert_eq!(queue.next().await, "a");
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_several_delays_counts() {
    let (queue, start) = (WorkQueue::new(), Instant::now());
    queue.add_after("a", Duration::from_secs(5));
    queue.add_after("a", Duration::from_secs(1));
    queue.add_after("a", Duration::from_secs(9));
    assert_eq!(queue.next().await, "a");
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    queue.done(&"a", Outcome::Done(None));
    assert!(
        tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err(),
        "later delays are void"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_come_back_ever_later_until_one_success() {
    let queue = WorkQueue::new();
    let mut waits = Vec::new();
    queue.add("a");
    for _ in 0..4 {
        let start = Instant::now();
        let key = queue.next().await;
        waits.push(start.elapsed());
        queue.done(&key, Outcome::Failed);
    }
    assert!(
        waits[0].is_zero() && waits[1] < Duration::from_millis(25) && waits[3] > Duration::from_millis(35)
    );
    let key = queue.next().await;
    queue.done(&key, Outcome::Done(None));
    assert!(tokio::time::timeout(Duration::from_secs(600), queue.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn work_runs_concurrently_up_to_the_limit_and_stops_when_told() {
    let (queue, shutdown) = (WorkQueue::new(), CancellationToken::new());
    (0..6).for_each(|key| queue.add(key));
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let reconcile = |_| {
        let (running, most) = (running.clone(), most.clone());
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(None)
        }
    };
    let metrics = ControllerMetrics::unregistered("test");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        shutdown.cancel();
    };
    tokio::join!(work(queue.clone(), 3, metrics.clone(), reconcile, shutdown.clone()), stop);
    assert_eq!(most.load(Ordering::Relaxed), 3);
    assert_eq!(metrics.done.get(), 6);
}
