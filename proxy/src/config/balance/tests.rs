use weft_xds::json::{Format, from_json, parse_value};

use super::*;
use crate::balance::{Fallback, LoadReports, PeakEwma, Selector};

fn compiled(yaml: &str) -> Result<Balancing, String> {
    let value = parse_value(&format!("name: c\n{yaml}"), Format::Yaml).expect("a document");
    let cluster: ProtoCluster = from_json(&value).expect("a cluster");
    compile(&Path::root("c"), &cluster).map_err(|error| error.to_string())
}

fn policy(yaml: &str) -> Policy {
    compiled(yaml).expect("supported").policy
}

fn extension(type_: &str, fields: &str) -> String {
    let package = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    format!(
        "load_balancing_policy: {{ policies: [ {{ typed_extension_config: {{ name: p, typed_config: {{ \"@type\": {package}.{type_}, {fields} }} }} }} ] }}"
    )
}

#[test]
fn both_ways_to_name_a_policy_mean_the_same() {
    let common = "common_lb_config: { consistent_hashing_lb_config: { use_hostname_for_hashing: true, hash_balance_factor: 150 } }";
    let hashing =
        "consistent_hashing_lb_config: { use_hostname_for_hashing: true, hash_balance_factor: 150 }";
    for (one, other) in [
        ("lb_policy: ROUND_ROBIN".to_owned(), extension("round_robin.v3.RoundRobin", "")),
        ("lb_policy: RANDOM".to_owned(), extension("random.v3.Random", "")),
        ("lb_policy: LEAST_REQUEST".to_owned(), extension("least_request.v3.LeastRequest", "")),
        (
            "lb_policy: LEAST_REQUEST\nleast_request_lb_config: { choice_count: 5, active_request_bias: { default_value: 0.5, runtime_key: r } }".to_owned(),
            extension("least_request.v3.LeastRequest", "choice_count: 5, active_request_bias: { default_value: 0.5, runtime_key: r }"),
        ),
        ("lb_policy: RING_HASH".to_owned(), extension("ring_hash.v3.RingHash", "")),
        (
            format!("lb_policy: RING_HASH\nring_hash_lb_config: {{ minimum_ring_size: 10, maximum_ring_size: 20, hash_function: MURMUR_HASH_2 }}\n{common}"),
            extension("ring_hash.v3.RingHash", &format!("minimum_ring_size: 10, maximum_ring_size: 20, hash_function: MURMUR_HASH_2, {hashing}")),
        ),
        ("lb_policy: MAGLEV".to_owned(), extension("maglev.v3.Maglev", "")),
        (
            format!("lb_policy: MAGLEV\nmaglev_lb_config: {{ table_size: 251 }}\n{common}"),
            extension("maglev.v3.Maglev", &format!("table_size: 251, {hashing}")),
        ),
    ] {
        assert_eq!(compiled(&one), compiled(&other), "{one}");
        assert!(compiled(&one).is_ok(), "{one}: {:?}", compiled(&one));
    }
}

#[test]
fn settings_are_read_and_envoys_defaults_are_ours() {
    assert_eq!(policy(""), Policy::RoundRobin, "what a message without a policy means");
    assert_eq!(
        policy("lb_policy: LEAST_REQUEST"),
        Policy::LeastRequest(LeastRequest { choices: 2, active_bias: 1.0 })
    );
    let all = extension("least_request.v3.LeastRequest", "selection_method: FULL_SCAN");
    assert_eq!(
        policy(&all),
        Policy::LeastRequest(LeastRequest { choices: LeastRequest::ALL, active_bias: 1.0 })
    );
    let Policy::RingHash(ring) = policy("lb_policy: RING_HASH") else { panic!("a ring") };
    assert_eq!((ring.minimum, ring.maximum), (1024, 8 << 20));
    let Policy::Maglev(maglev) = policy("lb_policy: MAGLEV") else { panic!("a table") };
    assert_eq!(maglev.size, 65_537);
    let slow = extension("peak_ewma.v3alpha.PeakEwma", "decay_time: 5s");
    let decay = std::time::Duration::from_secs(5);
    assert_eq!(policy(&slow), Policy::PeakEwma(PeakEwma { decay, ..PeakEwma::default() }));
    let common = compiled(
        "common_lb_config: { healthy_panic_threshold: { value: 20 }, locality_weighted_lb_config: {} }",
    );
    let common = common.expect("supported");
    assert_eq!((common.panic_threshold, common.localities), (20.0, Localities::Weighted));
}

#[test]
fn slow_start_is_read_in_both_places_and_has_envoys_defaults() {
    let fields = "slow_start_config: { slow_start_window: 60s, aggression: { default_value: 2, runtime_key: r }, min_weight_percent: { value: 25 } }";
    let expected = SlowStart { window: std::time::Duration::from_secs(60), aggression: 2.0, least: 0.25 };
    for yaml in [
        format!("lb_policy: ROUND_ROBIN\nround_robin_lb_config: {{ {fields} }}"),
        format!("lb_policy: LEAST_REQUEST\nleast_request_lb_config: {{ {fields} }}"),
        extension("round_robin.v3.RoundRobin", fields),
        extension("least_request.v3.LeastRequest", fields),
    ] {
        assert_eq!(compiled(&yaml).expect("supported").slow_start, Some(expected), "{yaml}");
    }
    let bare = compiled("round_robin_lb_config: { slow_start_config: { slow_start_window: 60s } }");
    let bare = bare.expect("supported").slow_start.expect("there is one");
    assert_eq!((bare.aggression, bare.least), (1.0, 0.1));
    assert_eq!(
        compiled("round_robin_lb_config: { slow_start_config: {} }"),
        Err("c.round_robin_lb_config.slow_start_config.slow_start_window: is required".to_owned())
    );
}

#[test]
fn zones_are_read_in_both_places_and_have_envoys_defaults() {
    let usual = ZoneAware::default();
    assert_eq!((usual.routing_enabled, usual.min_cluster_size, usual.fail_traffic_on_panic), (100, 6, false));
    let fields = "zone_aware_lb_config: { routing_enabled: { value: 30 }, min_cluster_size: 4, fail_traffic_on_panic: true }";
    let zones = ZoneAware { routing_enabled: 30, min_cluster_size: 4, fail_traffic_on_panic: true };
    for (yaml, expected) in [
        ("lb_policy: RANDOM".to_owned(), Localities::ByZone(usual)),
        (format!("lb_policy: RANDOM\ncommon_lb_config: {{ {fields} }}"), Localities::ByZone(zones)),
        (
            extension("random.v3.Random", &format!("locality_lb_config: {{ {fields} }}")),
            Localities::ByZone(zones),
        ),
        (format!("lb_policy: MAGLEV\ncommon_lb_config: {{ {fields} }}"), Localities::Ignored),
    ] {
        assert_eq!(compiled(&yaml).expect("supported").localities, expected, "{yaml}");
    }
}

#[test]
fn load_reports_have_the_defaults_of_a58() {
    let policy = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin";
    let reports =
        |fields: &str| compiled(&extension(policy, fields)).map(|found| found.reports.expect("reports"));
    assert_eq!(*reports("").expect("supported"), LoadReports::default());
    let fields = "blackout_period: 1s, weight_expiration_period: 2s, weight_update_period: 0.01s, error_utilization_penalty: 0.5, metric_names_for_computing_utilization: [ named_metrics.a ]";
    let seconds = std::time::Duration::from_secs;
    let expected = LoadReports {
        blackout: seconds(1),
        expiration: seconds(2),
        period: std::time::Duration::from_millis(100),
        penalty: 0.5,
        metrics: vec!["named_metrics.a".to_owned()],
    };
    assert_eq!(*reports(fields).expect("supported"), expected);
    for (fields, error) in [
        ("enable_oob_load_report: true", "enable_oob_load_report: is not supported"),
        ("error_utilization_penalty: -1", "error_utilization_penalty: must be at least 0"),
    ] {
        assert!(reports(fields).expect_err("refused").ends_with(error), "{fields}");
    }
}

#[test]
fn subsets_are_read_in_both_places() {
    let fields = "fallback_policy: ANY_ENDPOINT, default_subset: { a: b }, list_as_any: true, subset_selectors: [ { keys: [ v, s, v ], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [ v ] } ]";
    let inner = extension("random.v3.Random", "").replacen("load_balancing_policy", "subset_lb_policy", 1);
    let both = [
        format!("lb_policy: RANDOM\nlb_subset_config: {{ {fields} }}"),
        extension("subset.v3.Subset", &format!("{fields}, {inner}")),
    ];
    assert_eq!(compiled(&both[0]), compiled(&both[1]));
    let subsets = compiled(&both[0]).expect("supported").subsets.expect("subsets");
    let keys = vec!["s".to_owned(), "v".to_owned()];
    let fallback = Some(Fallback::Keys(vec!["v".to_owned()]));
    assert_eq!(subsets.selectors, [Selector { keys, fallback }]);
    assert_eq!(
        compiled("lb_subset_config: { fallback_policy: ANY_ENDPOINT }").expect("supported").subsets,
        None
    );
    for (fields, error) in [
        ("{ keys: [] }", "subset_selectors[0].keys: is required"),
        (
            "{ keys: [ v ], single_host_per_subset: true }",
            "subset_selectors[0].single_host_per_subset: is not supported",
        ),
        (
            "{ keys: [ v ], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [ v ] }",
            "subset_selectors[0].fallback_keys_subset: must be some of the keys, and not all",
        ),
    ] {
        let found = compiled(&format!("lb_subset_config: {{ subset_selectors: [ {fields} ] }}"));
        assert_eq!(found, Err(format!("c.lb_subset_config.{error}")));
    }
}

#[test]
fn of_several_extensions_the_first_that_is_known_counts() {
    let inner = extension("least_request.v3.LeastRequest", "");
    let wrapped = extension(
        "wrr_locality.v3.WrrLocality",
        &inner.replacen("load_balancing_policy", "endpoint_picking_policy", 1),
    );
    let compiled_ = compiled(&wrapped).expect("supported");
    assert_eq!(
        (compiled_.policy, compiled_.localities),
        (Policy::LeastRequest(LeastRequest::default()), Localities::Weighted)
    );
    let unknown = extension("random.v3.Random", "")
        .replace("load_balancing_policies.random.v3.Random", "filters.http.router.v3.Router");
    let both = unknown
        .replace(" ] }", &format!(", {} ] }}", &inner[inner.find("{ typed").expect("one")..inner.len() - 4]));
    assert_eq!(policy(&both), Policy::LeastRequest(LeastRequest::default()));
    assert_eq!(
        compiled(&unknown),
        Err("c.load_balancing_policy.policies: none of them is supported".to_owned())
    );
}

#[test]
fn what_cannot_be_done_is_refused_with_its_path() {
    for (yaml, error) in [
        (
            "lb_policy: MAGLEV\nmaglev_lb_config: { table_size: 1024 }",
            "c.maglev_lb_config.table_size: must be a prime of at most 5000011",
        ),
        (
            "lb_policy: RING_HASH\nring_hash_lb_config: { minimum_ring_size: 9, maximum_ring_size: 8 }",
            "c.ring_hash_lb_config.minimum_ring_size: must not exceed maximum_ring_size",
        ),
        (
            "lb_policy: LEAST_REQUEST\nleast_request_lb_config: { choice_count: 1 }",
            "c.least_request_lb_config.choice_count: must be at least 2",
        ),
        ("lb_policy: LOAD_BALANCING_POLICY_CONFIG", "c.load_balancing_policy: is required"),
        (
            "lb_policy: RING_HASH\ncommon_lb_config: { consistent_hashing_lb_config: { hash_balance_factor: 99 } }",
            "c.common_lb_config.consistent_hashing_lb_config.hash_balance_factor: must be at least 100",
        ),
        (
            "common_lb_config: { override_host_status: { statuses: [ HEALTHY ] } }",
            "c.common_lb_config.override_host_status: UNKNOWN, HEALTHY and DEGRADED are only supported together",
        ),
    ] {
        assert_eq!(compiled(yaml), Err(error.to_owned()), "{yaml}");
    }
}
