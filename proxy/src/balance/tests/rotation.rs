//! Who takes part.

use super::*;
use crate::cluster::endpoint::{Status, Zone};

fn of_priority(priority: u32, numbers: std::ops::Range<u16>) -> Vec<HostConfig> {
    numbers.map(|number| HostConfig { priority, ..host(number) }).collect()
}

fn in_zone(zone: &str, locality_weight: u32, numbers: std::ops::Range<u16>) -> Vec<HostConfig> {
    let zone = Arc::new(Zone { zone: zone.into(), ..Zone::default() });
    numbers.map(|number| HostConfig { zone: Arc::clone(&zone), locality_weight, ..host(number) }).collect()
}

fn fail(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| endpoint(cluster, number).set_failing_checks(true));
    cluster.refresh();
}

#[test]
fn unfit_endpoints_are_passed_over_until_most_are_unfit() {
    let cluster = cluster(balancing(Policy::RoundRobin), &hosts(4));
    fail(&cluster, 0..1);
    endpoint(&cluster, 1).eject(Duration::from_secs(60));
    cluster.refresh();
    assert_eq!(pick_many(&cluster, 100), [0, 0, 50, 50]);
    fail(&cluster, 2..3);
    assert_eq!(pick_many(&cluster, 100), [25; 4], "panic mode spreads over all");
}

#[test]
fn health_that_changed_a_moment_ago_counts_before_the_rotation_is_made_anew() {
    let cluster = cluster(balancing(Policy::RoundRobin), &hosts(4));
    endpoint(&cluster, 0).set_failing_checks(true);
    assert_eq!(pick_many(&cluster, 100)[0], 0);
    for number in 1..4 {
        endpoint(&cluster, number).set_failing_checks(true);
    }
    assert_eq!(pick_many(&cluster, 100).iter().sum::<usize>(), 100, "somebody is better than nobody");
}

#[test]
fn without_panic_nobody_is_picked_when_nobody_is_fit() {
    let balancing = Balancing { panic_threshold: 0.0, ..balancing(Policy::RoundRobin) };
    let cluster = cluster(balancing, &hosts(3));
    fail(&cluster, 0..3);
    assert!(Thread::new().pick(&cluster, &Ask::default()).is_none());
}

#[test]
fn what_discovery_calls_unhealthy_or_draining_gets_nothing_even_in_panic() {
    let mut hosts = hosts(4);
    hosts[0].status = Status::Unhealthy;
    hosts[1].status = Status::Draining;
    let cluster = cluster(balancing(Policy::RoundRobin), &hosts);
    assert_eq!(pick_many(&cluster, 100), [0, 0, 50, 50]);
    fail(&cluster, 2..4);
    assert_eq!(pick_many(&cluster, 100), [0, 0, 50, 50]);
}

#[test]
fn traffic_goes_to_the_next_priority_as_far_as_the_first_cannot_serve_it() {
    let hosts = [of_priority(0, 0..10), of_priority(1, 10..20)].concat();
    for policy in [Policy::RoundRobin, Policy::Maglev(Maglev::default())] {
        let cluster = cluster(balancing(policy), &hosts);
        let part_of_first = || {
            let counts = pick_many(&cluster, 10_000);
            counts[..10].iter().sum::<usize>() as f64 / 10_000.0
        };
        assert_eq!(part_of_first(), 1.0);
        fail(&cluster, 0..2);
        assert_eq!(part_of_first(), 1.0, "over-provisioning has 40 % in spare");
        fail(&cluster, 2..5);
        assert!((part_of_first() - 0.7).abs() < 0.03, "{}", part_of_first());
        fail(&cluster, 5..10);
        assert_eq!(part_of_first(), 0.0);
    }
}

#[test]
fn a_retry_goes_to_another_priority_when_its_own_is_used_up() {
    let hosts = [of_priority(0, 0..1), of_priority(1, 1..2)].concat();
    let cluster = cluster(balancing(Policy::RoundRobin), &hosts);
    let tried = [endpoint(&cluster, 0).id];
    let picked = Thread::new().pick(&cluster, &Ask { tried: &tried, ..Ask::default() }).expect("another one");
    assert_eq!(picked.id, endpoint(&cluster, 1).id);
}

#[test]
fn localities_get_their_weight_as_far_as_they_are_fit() {
    let hosts = [in_zone("a", 1, 0..10), in_zone("b", 2, 10..15), in_zone("c", 0, 15..20)].concat();
    let maglev = Policy::Maglev(Maglev::default());
    for policy in [Policy::RoundRobin, Policy::LeastRequest(LeastRequest::default()), maglev] {
        let balancing = Balancing { localities: Localities::Weighted, ..balancing(policy) };
        let cluster = cluster(balancing, &hosts);
        let parts = || {
            let counts = pick_many(&cluster, 30_000);
            [&counts[..10], &counts[10..15], &counts[15..]].map(|zone| zone.iter().sum::<usize>() / 300)
        };
        let [a, b, c] = parts();
        assert!(a.abs_diff(33) <= 2 && b.abs_diff(66) <= 2 && c == 0, "{a} {b} {c}");
        // Half of a is left: 70 % of its weight.
        fail(&cluster, 0..5);
        let [a, b, c] = parts();
        assert!(a.abs_diff(26) <= 2 && b.abs_diff(74) <= 2 && c == 0, "{a} {b} {c}");
    }
}

#[test]
fn an_update_keeps_what_is_known_of_the_endpoints_that_stay() {
    let cluster = cluster(balancing(Policy::PeakEwma(PeakEwma::default())), &hosts(3));
    let (stays, goes) = (endpoint(&cluster, 1), endpoint(&cluster, 0));
    stays.eject(Duration::from_secs(60));
    let set = EndpointSet::new(&hosts(4)[1..], &cluster.endpoints.load());
    cluster.replace_endpoints(set);
    assert!(Arc::ptr_eq(&stays, &endpoint(&cluster, 0)));
    assert!(goes.is_gone() && !stays.is_gone());
    assert_eq!(pick_many(&cluster, 100)[0], 0, "the one that stays is still ejected");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_new_endpoints_are_a_pointer_to_data_threads_which_never_free_the_old_ones() {
    let cluster = Arc::new(cluster(balancing(Policy::RoundRobin), &hosts(10_000)));
    let task = tokio::spawn(keep_current(Arc::downgrade(&cluster), None));
    // A data thread is in the middle of a pick.
    let picking = cluster.rotation.load();
    let before = Arc::downgrade(&picking);
    cluster.replace_endpoints(EndpointSet::new(&hosts(9_999), &cluster.endpoints.load()));
    let made = Arc::as_ptr(&cluster.rotation.load_full());
    assert_ne!(made, before.as_ptr(), "control made another one");
    drop(picking);
    assert!(before.upgrade().is_some(), "that the pick ended frees nothing");
    assert_eq!(
        Arc::as_ptr(&cluster.rotation.load()),
        made,
        "what control made is what threads read, as it is"
    );
    // Control frees it, and soon: it is as large as the new one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(before.upgrade().is_none());
    drop(cluster);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert!(task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_ejection_ends_by_itself() {
    let cluster = Arc::new(cluster(balancing(Policy::RoundRobin), &hosts(4)));
    let task = tokio::spawn(keep_current(Arc::downgrade(&cluster), None));
    endpoint(&cluster, 0).eject(Duration::from_secs(30));
    cluster.changed.notify_one();
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(pick_many(&cluster, 100)[0], 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pick_many(&cluster, 100), [25; 4]);
    drop(cluster);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert!(task.is_finished(), "the task ends with its cluster");
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_gets_its_part_little_by_little() {
    let slow = SlowStart { window: Duration::from_secs(60), aggression: 1.0, least: 0.1 };
    for policy in [Policy::RoundRobin, Policy::LeastRequest(LeastRequest::default())] {
        let balancing = Balancing { slow_start: Some(slow), ..balancing(policy) };
        let cluster = Arc::new(cluster(balancing, &hosts(1)));
        let _task = tokio::spawn(keep_current(Arc::downgrade(&cluster), None));
        tokio::time::sleep(Duration::from_secs(100)).await;
        cluster.replace_endpoints(EndpointSet::new(&hosts(2), &cluster.endpoints.load()));
        let part_of_new = || pick_many(&cluster, 10_000)[1];
        assert!(part_of_new().abs_diff(909) < 200, "a tenth of its weight: {}", part_of_new());
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(part_of_new().abs_diff(3333) < 300, "half of its weight: {}", part_of_new());
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(part_of_new().abs_diff(5000) < 300, "all of its weight: {}", part_of_new());
    }
}

#[test]
fn endpoints_that_were_not_checked_yet_are_unfit_and_may_be_left_out_of_the_count() {
    for (ignore_new, expected) in [(false, [10; 6]), (true, [30, 30, 0, 0, 0, 0])] {
        let balancing = Balancing { ignore_new, ..balancing(Policy::RoundRobin) };
        let cluster = cluster(balancing, &hosts(6));
        (2..6).for_each(|number| endpoint(&cluster, number).await_first_check());
        cluster.refresh();
        assert_eq!(pick_many(&cluster, 60), expected, "a third of six is panic, two of two is not");
        endpoint(&cluster, 2).set_failing_checks(false);
        assert!(!endpoint(&cluster, 2).awaits_first_check() && endpoint(&cluster, 3).awaits_first_check());
    }
}

#[test]
fn an_endpoint_that_passes_its_checks_outlives_its_place_in_the_list_where_checks_are_believed() {
    let cluster = Cluster { keeps_healthy: true, ..cluster(balancing(Policy::RoundRobin), &hosts(3)) };
    let (passes, fails) = (endpoint(&cluster, 0), endpoint(&cluster, 1));
    fails.set_failing_checks(true);
    cluster.replace_endpoints(EndpointSet::new(&hosts(3)[2..], &cluster.endpoints.load()));
    assert_eq!(pick_many(&cluster, 100), [50, 50], "the third, and the first");
    assert!(fails.is_gone() && !passes.is_gone());
    cluster.let_go();
    assert!(!passes.is_gone());
    passes.set_failing_checks(true);
    cluster.let_go();
    assert!(passes.is_gone());
    assert_eq!(pick_many(&cluster, 100), [100]);
}
