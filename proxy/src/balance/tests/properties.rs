//! What holds for every policy and every set.

use proptest::prelude::*;

use super::*;
use crate::cluster::{
    endpoint::{Status, Zone},
    local::LocalCluster,
};

fn policies() -> impl Strategy<Value = Policy> {
    let bounded = Key { bound: Some(120), ..Key::default() };
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Random),
        Just(Policy::PeakEwma(PeakEwma::default())),
        (2..5usize).prop_map(|choices| Policy::LeastRequest(LeastRequest { choices, active_bias: 1.0 })),
        Just(Policy::LeastRequest(LeastRequest { choices: LeastRequest::ALL, active_bias: 0.5 })),
        Just(Policy::RingHash(RingHash { minimum: 64, ..RingHash::default() })),
        Just(Policy::RingHash(RingHash { minimum: 1, maximum: 8, key: bounded, ..RingHash::default() })),
        Just(Policy::Maglev(Maglev { size: 251, key: bounded })),
    ]
}

/// One of three.
fn zone(number: u16) -> Arc<Zone> {
    Arc::new(Zone { zone: (number % 3).to_string(), ..Zone::default() })
}

/// Why an endpoint is to be passed over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    FailsChecks,
    Ejected,
    /// Discovery says so.
    Unhealthy,
    Draining,
}

/// Priority, weight, weight of the locality, what is wrong with it, whether it was tried.
type Drawn = (u32, u32, u32, Trouble, bool);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let trouble = prop_oneof![
        2 => Just(Trouble::None),
        1 => Just(Trouble::FailsChecks),
        1 => Just(Trouble::Ejected),
        1 => Just(Trouble::Unhealthy),
        1 => Just(Trouble::Draining),
    ];
    let one = (0..3u32, 1..50u32, 0..4u32, trouble, any::<bool>());
    prop::collection::vec(one, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_excluded_endpoint_is_never_picked_while_another_is_left(
        policy in policies(),
        drawn in drawn(),
        localities in prop_oneof![
            Just(Localities::Ignored),
            Just(Localities::Weighted),
            Just(Localities::ByZone(ZoneAware { min_cluster_size: 1, ..ZoneAware::default() })),
        ],
        hash in any::<u64>(),
        refreshed in any::<bool>(),
    ) {
        let configs: Vec<HostConfig> = (0..)
            .zip(&drawn)
            .map(|(number, (priority, weight, locality_weight, trouble, _))| HostConfig {
                priority: *priority,
                weight: *weight,
                locality_weight: *locality_weight,
                status: match trouble {
                    Trouble::Unhealthy => Status::Unhealthy,
                    Trouble::Draining => Status::Draining,
                    _ => Status::Healthy,
                },
                zone: zone(number),
                ..host(number)
            })
            .collect();
        // Without panic, in which unfit endpoints are picked on purpose.
        let balancing = Balancing { panic_threshold: 0.0, localities, ..balancing(policy) };
        // A proxy in each zone, this one in the first.
        let local = LocalCluster::new("proxies".into(), Zone::clone(&zone(0)));
        let proxies: Vec<_> = (0..3).map(|number| HostConfig { zone: zone(number), ..host(number) }).collect();
        local.slot.set(Some(Arc::new(cluster(super::balancing(Policy::RoundRobin), &proxies))));
        let cluster = Cluster { local: Some(Arc::new(local)), ..cluster(balancing, &configs) };
        cluster.refresh();
        let mut tried = Vec::new();
        for (number, (_, _, _, trouble, was_tried)) in drawn.iter().enumerate() {
            let endpoint = endpoint(&cluster, number);
            endpoint.set_failing_checks(*trouble == Trouble::FailsChecks);
            if *trouble == Trouble::Ejected {
                endpoint.eject(Duration::from_secs(60));
            }
            tried.extend(was_tried.then_some(endpoint.id));
        }
        if refreshed {
            cluster.refresh();
        }
        // A locality without a weight takes no part where localities have weights.
        let weighted = |priority: u32| drawn.iter().any(|other| other.0 == priority && other.2 > 0);
        let takes_part = |drawn: &Drawn| {
            localities != Localities::Weighted || drawn.2 > 0 || !weighted(drawn.0)
        };
        let well = |drawn: &Drawn| drawn.3 == Trouble::None;
        let left = drawn.iter().any(|drawn| well(drawn) && !drawn.4 && takes_part(drawn));
        let thread = Thread::new();
        for _ in 0..20 {
            let picked = thread.pick(&cluster, &Ask { hash: Some(hash), tried: &tried, criteria: None });
            let number = picked.as_ref().and_then(|picked| {
                (0..drawn.len()).find(|number| endpoint(&cluster, *number).id == picked.id)
            });
            // These never get anything, whoever else there is.
            let barred = number.is_some_and(|number| {
                matches!(drawn[number].3, Trouble::Unhealthy | Trouble::Draining)
            });
            prop_assert!(!barred, "discovery said no");
            if left {
                let picked = picked.expect("one is left");
                prop_assert!(!tried.contains(&picked.id), "was tried");
                prop_assert!(picked.is_fit(), "is unfit");
            }
        }
    }
}
