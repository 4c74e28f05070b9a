//! How evenly each policy spreads requests.

use std::sync::atomic::Ordering;

use super::*;

#[test]
fn round_robin_gives_each_its_weight_exactly() {
    assert_eq!(pick_many(&cluster(balancing(Policy::RoundRobin), &hosts(3)), 300), [100; 3]);
    let uneven = cluster(balancing(Policy::RoundRobin), &weighted(&[1, 3]));
    assert_eq!(pick_many(&uneven, 400), [100, 300]);
}

#[test]
fn random_gives_each_its_weight_on_average() {
    let counts = pick_many(&cluster(balancing(Policy::Random), &weighted(&[1, 2, 1])), 40_000);
    for (count, expected) in counts.iter().zip([10_000usize, 20_000, 10_000]) {
        // Six standard deviations.
        assert!(count.abs_diff(expected) < 6 * 100, "{counts:?}");
    }
}

#[test]
fn least_request_keeps_the_longest_queue_short() {
    // Requests that never end: the classical balls into bins. With 1,000 of each, chance alone gives a longest queue of
    // ln n / ln ln n, above 5 nearly always; two choices give ln ln n / ln 2 + O(1), below 5.
    let longest = |policy| {
        let cluster = cluster(balancing(policy), &hosts(1000));
        let thread = Thread::new();
        for _ in 0..1000 {
            let endpoint = thread.pick(&cluster, &Ask::default()).expect("all are fit");
            endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
        }
        let set = cluster.endpoints.load();
        set.hosts.iter().map(|host| host.endpoint.stats.rq_active.load(Ordering::Relaxed)).max()
    };
    let by_chance = longest(Policy::Random).expect("hosts");
    let two = longest(Policy::LeastRequest(LeastRequest::default())).expect("hosts");
    let all = LeastRequest { choices: LeastRequest::ALL, ..LeastRequest::default() };
    assert!(two <= 4 && two < by_chance, "two choices {two}, by chance {by_chance}");
    assert_eq!(longest(Policy::LeastRequest(all)), Some(1));
}

#[test]
fn least_request_shares_by_weight_when_idle_and_by_what_is_carried_for_it_when_busy() {
    let with_bias = |active_bias| {
        let policy = Policy::LeastRequest(LeastRequest { active_bias, ..LeastRequest::default() });
        cluster(balancing(policy), &weighted(&[1, 3]))
    };
    let idle = pick_many(&with_bias(1.0), 40_000);
    assert!(idle[0].abs_diff(10_000) < 600, "{idle:?}");
    // Three times the weight carries three times the requests; both are as busy as the other then.
    let busy = with_bias(1.0);
    let thread = Thread::new();
    for _ in 0..400 {
        let picked = thread.pick(&busy, &Ask::default()).expect("fit");
        picked.stats.rq_active.fetch_add(1, Ordering::Relaxed);
    }
    let carried = endpoint(&busy, 0).stats.rq_active.load(Ordering::Relaxed);
    assert!((95..=105).contains(&carried), "{carried}");
    let without = with_bias(0.0);
    endpoint(&without, 1).stats.rq_active.store(1000, Ordering::Relaxed);
    let counts = pick_many(&without, 40_000);
    assert!(counts[0].abs_diff(10_000) < 600, "without a bias nobody looks: {counts:?}");
}

#[test]
fn a_ring_is_as_even_as_its_places_allow_and_a_maglev_table_to_the_last_entry() {
    let spread = |policy, hosts: &[HostConfig]| {
        let cluster = cluster(balancing(policy), hosts);
        let counts = pick_hashes(&cluster, hashes(100_000));
        let fair = |number: usize| {
            let total: u32 = hosts.iter().map(|host| host.weight).sum();
            100_000.0 * f64::from(hosts[number].weight) / f64::from(total)
        };
        let off = |(number, count): (usize, &usize)| (*count as f64 / fair(number) - 1.0).abs();
        counts.iter().enumerate().map(off).fold(0.0, f64::max)
    };
    // The part of an endpoint with k places has a standard deviation of 1/sqrt(k) of itself: 10 % for 100, 3 % for 1,000.
    let ring = |minimum| Policy::RingHash(RingHash { minimum, ..RingHash::default() });
    assert!(spread(ring(1_000), &hosts(10)) < 0.40);
    assert!(spread(ring(100_000), &hosts(10)) < 0.06);
    let maglev = Policy::Maglev(Maglev::default());
    // Counting 10,000 balls in a bin alone is off by 3 standard deviations of 1 %.
    assert!(spread(maglev, &hosts(10)) < 0.04);
    assert!(spread(maglev, &weighted(&[1, 2, 3, 4])) < 0.04);
    assert!(spread(ring(100_000), &weighted(&[1, 2, 3, 4])) < 0.06);
}

#[test]
fn affinity_with_a_bound_puts_no_more_than_that_on_one_endpoint() {
    for policy in [
        Policy::RingHash(RingHash { key: Key { bound: Some(125), ..Key::default() }, ..RingHash::default() }),
        Policy::Maglev(Maglev { key: Key { bound: Some(125), ..Key::default() }, ..Maglev::default() }),
    ] {
        let cluster = cluster(balancing(policy), &hosts(10));
        let thread = Thread::new();
        // Everybody asks for the same.
        let ask = Ask { hash: Some(42), ..Ask::default() };
        let favourite = thread.pick(&cluster, &ask).expect("fit");
        for _ in 0..1000 {
            cluster.breaker.requests.fetch_add(1, Ordering::Relaxed);
            let endpoint = thread.pick(&cluster, &ask).expect("fit");
            endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
        }
        let set = cluster.endpoints.load();
        let most = set.hosts.iter().map(|host| host.endpoint.stats.rq_active.load(Ordering::Relaxed)).max();
        assert!(most <= Some(126), "{most:?}");
        assert!(
            favourite.stats.rq_active.load(Ordering::Relaxed) >= 124,
            "the first choice gets all that it may"
        );
    }
}

#[test]
fn requests_without_a_hash_go_anywhere() {
    for policy in [Policy::RingHash(RingHash::default()), Policy::Maglev(Maglev::default())] {
        let counts = pick_many(&cluster(balancing(policy), &hosts(4)), 4000);
        assert!(counts.iter().all(|count| *count > 500), "{counts:?}");
    }
}
