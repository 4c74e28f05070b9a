//! That traffic stays in its zone, and that no endpoint gets more than its part for it.

use super::*;
use crate::cluster::{endpoint::Zone, local::LocalCluster};

fn zone(name: &str) -> Zone {
    Zone { zone: name.into(), ..Zone::default() }
}

/// So many hosts in each of the zones a, b, c.
fn in_zones(counts: [u16; 3]) -> Vec<HostConfig> {
    let mut all = Vec::new();
    for (name, count) in ["a", "b", "c"].into_iter().zip(counts) {
        let zone = Arc::new(zone(name));
        for _ in 0..count {
            all.push(HostConfig { zone: Arc::clone(&zone), ..host(all.len() as u16) });
        }
    }
    all
}

fn by_zone(settings: ZoneAware) -> Balancing {
    Balancing { localities: Localities::ByZone(settings), ..balancing(Policy::RoundRobin) }
}

/// A cluster as a proxy in the zone `own` sees it, while there are so many proxies in each zone.
fn seen_from(own: &str, proxies: [u16; 3], balancing: Balancing, hosts: &[HostConfig]) -> Cluster {
    let local = LocalCluster::new("proxies".into(), zone(own));
    let set = in_zones(proxies);
    local.slot.set(Some(Arc::new(cluster(super::balancing(Policy::RoundRobin), &set))));
    let cluster = Cluster { local: Some(Arc::new(local)), ..cluster(balancing, hosts) };
    cluster.refresh();
    cluster
}

/// The picks by zone.
fn of_zones(cluster: &Cluster, sizes: [u16; 3], count: usize) -> [usize; 3] {
    let counts = pick_many(cluster, count);
    let [a, b, _] = sizes.map(usize::from);
    [&counts[..a], &counts[a..a + b], &counts[a + b..]].map(|zone| zone.iter().sum())
}

#[test]
fn traffic_stays_in_its_zone_as_far_as_its_endpoints_are_due_it_and_all_get_their_part() {
    for (proxies, endpoints) in
        [([4, 4, 2], [5, 10, 5]), ([1, 1, 1], [3, 3, 3]), ([8, 1, 1], [2, 9, 9]), ([2, 0, 8], [4, 4, 12])]
    {
        let total: u16 = endpoints.iter().sum();
        let clients: u16 = proxies.iter().sum();
        let mut received = [0; 3];
        for (index, own) in ["a", "b", "c"].into_iter().enumerate().filter(|(index, _)| proxies[*index] > 0) {
            let seen = seen_from(own, proxies, by_zone(ZoneAware::default()), &in_zones(endpoints));
            assert!(seen.rotation.load().has_zones());
            let sent = 10_000 * usize::from(proxies[index]);
            let picks = of_zones(&seen, endpoints, sent);
            let due = f64::from(endpoints[index]) / f64::from(total) * f64::from(clients);
            let stays = (due / f64::from(proxies[index])).min(1.0);
            let found = picks[index] as f64 / sent as f64;
            assert!((found - stays).abs() < 0.02, "{proxies:?} {endpoints:?} {own}: {found} for {stays}");
            for (all, here) in received.iter_mut().zip(picks) {
                *all += here;
            }
        }
        for (received, endpoints) in received.into_iter().zip(endpoints) {
            let part = received as f64 / (10_000.0 * f64::from(clients));
            let due = f64::from(endpoints) / f64::from(total);
            assert!(
                (part - due).abs() < 0.02,
                "{proxies:?}: {part} of the traffic for {due} of the endpoints"
            );
        }
    }
}

#[test]
fn zones_do_not_matter_where_too_little_is_known_or_there() {
    let usual = ZoneAware::default();
    let even = |proxies, settings: ZoneAware, endpoints| {
        let seen = seen_from("a", proxies, by_zone(settings), &in_zones(endpoints));
        let zones = seen.rotation.load().has_zones();
        (zones, seen.upkeep.counters().map(|(_, count)| count)[1..3].to_vec())
    };
    assert_eq!(even([1, 1, 0], usual, [3, 3, 0]), (true, vec![0, 0]));
    assert_eq!(even([1, 1, 0], usual, [3, 2, 0]), (false, vec![0, 1]), "fewer than six");
    assert_eq!(even([1, 1, 0], ZoneAware { min_cluster_size: 5, ..usual }, [3, 2, 0]), (true, vec![0, 0]));
    assert_eq!(even([0, 1, 1], usual, [3, 3, 0]), (false, vec![1, 0]), "nobody like this one is here");
    assert_eq!(even([2, 0, 0], usual, [3, 3, 0]), (false, vec![1, 0]), "all are in one zone");
    assert_eq!(even([1, 1, 0], usual, [6, 0, 0]), (false, vec![0, 0]), "there is no other zone");
    assert!(!even([1, 1, 0], ZoneAware { routing_enabled: 0, ..usual }, [3, 3, 0]).0);
    let half =
        seen_from("a", [1, 1, 0], by_zone(ZoneAware { routing_enabled: 50, ..usual }), &in_zones([4, 4, 0]));
    let [a, b, _] = of_zones(&half, [4, 4, 0], 10_000);
    assert!(a.abs_diff(7500) < 300 && b.abs_diff(2500) < 300, "{a} {b}");
}

#[test]
fn a_zone_whose_endpoints_fail_is_served_by_the_others() {
    let seen = seen_from("a", [1, 1, 0], by_zone(ZoneAware::default()), &in_zones([5, 10, 0]));
    let [a, _, _] = of_zones(&seen, [5, 10, 0], 10_000);
    assert!(a.abs_diff(6666) < 300, "a third of the endpoints for half of the proxies: {a}");
    for number in 0..5 {
        endpoint(&seen, number).set_failing_checks(true);
    }
    assert_eq!(of_zones(&seen, [5, 10, 0], 1000), [0, 1000, 0], "at once");
    seen.refresh();
    assert_eq!(of_zones(&seen, [5, 10, 0], 1000), [0, 1000, 0]);
}

#[test]
fn in_panic_traffic_fails_where_that_is_asked_for() {
    let settings = ZoneAware { fail_traffic_on_panic: true, ..ZoneAware::default() };
    let cluster = cluster(by_zone(settings), &in_zones([2, 2, 0]));
    assert_eq!(pick_many(&cluster, 100), [25; 4]);
    for number in 0..3 {
        endpoint(&cluster, number).set_failing_checks(true);
    }
    cluster.refresh();
    assert_eq!(pick_many(&cluster, 100), [0; 4]);
    assert_eq!(cluster.stats.sum(|cells| &cells.lb_healthy_panic), 100);
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_the_proxies_is_followed() {
    let seen = Arc::new(seen_from("a", [1, 1, 0], by_zone(ZoneAware::default()), &in_zones([4, 4, 0])));
    let local = Arc::clone(seen.local.as_ref().expect("there is one"));
    let _task = tokio::spawn(keep_current(Arc::downgrade(&seen), Some(local.subscribe())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(of_zones(&seen, [4, 4, 0], 1000), [1000, 0, 0]);
    let set = in_zones([3, 1, 0]);
    local.slot.set(Some(Arc::new(cluster(balancing(Policy::RoundRobin), &set))));
    local.tell();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let [a, _, _] = of_zones(&seen, [4, 4, 0], 10_000);
    assert!(a.abs_diff(6666) < 300, "half of the endpoints for three quarters of the proxies: {a}");
}
