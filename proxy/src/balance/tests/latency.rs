//! What a client sees when one endpoint of ten is bad, in simulated time.

use std::{cmp::Reverse, collections::BinaryHeap, sync::atomic::Ordering};

use tokio::time::Instant;

use super::*;

/// What the last of ten endpoints does; the others answer after 5 ms and some.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Good,
    TenTimesSlower,
    /// Says 503 after a tenth of a millisecond.
    FailsFast,
    Hangs,
}

struct Outcome {
    p99: Duration,
    /// Of all requests, what the last endpoint got.
    part_of_last: f64,
}

const REQUESTS: u32 = 20_000;
/// What a client waits for.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Requests come at random, 1,000 in a second on average, and each is answered by itself.
async fn simulate(policy: Policy, last: Last) -> Outcome {
    let cluster = cluster(balancing(policy), &hosts(10));
    let (thread, chance) = (Thread::new(), Random::new(11));
    let uniform = || (chance.next() >> 11) as f64 / (1u64 << 53) as f64;
    let mut next = Instant::now();
    let mut ends: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut requests: Vec<(Arc<Endpoint>, Instant, bool)> = Vec::new();
    let mut latencies = Vec::new();
    let bad = endpoint(&cluster, 9);
    let settings = PeakEwma::default();
    while latencies.len() < REQUESTS as usize {
        let arrives = requests.len() < REQUESTS as usize;
        let event = match ends.peek() {
            Some(Reverse((end, _))) if !arrives || *end <= next => *end,
            _ => next,
        };
        tokio::time::advance(event - Instant::now()).await;
        let now = Instant::now();
        if let Some(Reverse((end, number))) = ends.peek().copied()
            && end <= now
        {
            ends.pop();
            let (endpoint, started, failed) = &requests[number];
            if *failed {
                endpoint.latency.failed(now, None)
            } else {
                endpoint.latency.record(now - *started, now, &settings)
            }
            endpoint.latency.end(now);
            endpoint.stats.rq_active.fetch_sub(1, Ordering::Relaxed);
            latencies.push(now - *started);
            continue;
        }
        let endpoint = thread.pick(&cluster, &Ask::default()).expect("all are fit");
        let good = Duration::from_millis(5) + Duration::from_micros((-1000.0 * uniform().ln()) as u64);
        let is_bad = endpoint.id == bad.id;
        let (takes, failed) = match last {
            Last::TenTimesSlower if is_bad => (good * 10, false),
            Last::FailsFast if is_bad => (Duration::from_micros(100), true),
            Last::Hangs if is_bad => (TIMEOUT, true),
            _ => (good, false),
        };
        endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
        endpoint.latency.begin(now);
        ends.push(Reverse((now + takes, requests.len())));
        requests.push((endpoint, now, failed));
        next = now + Duration::from_micros((-1000.0 * uniform().ln()) as u64);
    }
    latencies.sort();
    let of_last = requests.iter().filter(|(endpoint, _, _)| endpoint.id == bad.id).count();
    Outcome {
        p99: latencies[latencies.len() * 99 / 100],
        part_of_last: of_last as f64 / requests.len() as f64,
    }
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn with_one_endpoint_of_ten_ten_times_slower_peak_ewma_keeps_the_99th_percentile() {
    let ewma = Policy::PeakEwma(PeakEwma::default());
    let least = Policy::LeastRequest(LeastRequest::default());
    let fast = simulate(ewma, Last::Good).await;
    let slow = simulate(ewma, Last::TenTimesSlower).await;
    let by_turn = simulate(Policy::RoundRobin, Last::TenTimesSlower).await;
    let by_load = simulate(least, Last::TenTimesSlower).await;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    measured(&format!(
        "one endpoint of ten ten times slower, 99th percentile in simulated time: peak EWMA {:.1} ms ({:.1} ms with all fast), \
         least request {:.1} ms, round robin {:.1} ms; requests to the slow one: {:.1} %, {:.1} %, {:.1} %",
        milliseconds(slow.p99),
        milliseconds(fast.p99),
        milliseconds(by_load.p99),
        milliseconds(by_turn.p99),
        slow.part_of_last * 100.0,
        by_load.part_of_last * 100.0,
        by_turn.part_of_last * 100.0,
    ));
    assert!(ratio(slow.p99, fast.p99) < 1.5, "{:?} of {:?}", slow.p99, fast.p99);
    assert!(ratio(by_turn.p99, fast.p99) > 5.0, "{:?}: the simulation is one", by_turn.p99);
    assert!(ratio(by_load.p99, fast.p99) > 5.0, "{:?}: the simulation is one", by_load.p99);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_repels_traffic_under_peak_ewma_and_attracts_it_under_least_request() {
    let ewma = simulate(Policy::PeakEwma(PeakEwma::default()), Last::FailsFast).await;
    let least = simulate(Policy::LeastRequest(LeastRequest::default()), Last::FailsFast).await;
    println!(
        "part of the failing endpoint: peak EWMA {}, least request {}",
        ewma.part_of_last, least.part_of_last
    );
    assert!(ewma.part_of_last < 0.005, "{}", ewma.part_of_last);
    assert!(least.part_of_last > 0.10, "{}", least.part_of_last);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_noticed_before_its_first_request_times_out() {
    let ewma = simulate(Policy::PeakEwma(PeakEwma::default()), Last::Hangs).await;
    let by_turn = simulate(Policy::RoundRobin, Last::Hangs).await;
    assert!(ewma.part_of_last < 0.005, "{}", ewma.part_of_last);
    assert!(by_turn.part_of_last > 0.09, "{}", by_turn.part_of_last);
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_not_flooded_and_soon_gets_its_part() {
    let settings = PeakEwma::default();
    let cluster = cluster(balancing(Policy::PeakEwma(settings)), &hosts(10));
    let now = Instant::now();
    for number in 0..9 {
        endpoint(&cluster, number).latency.record(Duration::from_millis(5), now, &settings);
    }
    // Requests that are not answered yet: at five times the latency that is expected of it, it may hold five.
    let thread = Thread::new();
    for _ in 0..100 {
        let endpoint = thread.pick(&cluster, &Ask::default()).expect("fit");
        endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
    }
    let held = endpoint(&cluster, 9).stats.rq_active.load(Ordering::Relaxed);
    assert!((5..=40).contains(&held), "{held}");
}
