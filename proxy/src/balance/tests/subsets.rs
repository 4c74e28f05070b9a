//! Who is picked for a request that asks for a part of the endpoints.

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Arc<Labels> {
    let label = |(key, value): &(&str, &str)| {
        let elements: Vec<String> = value.split(' ').map(str::to_owned).collect();
        ((*key).to_owned(), ((*value).to_owned(), Some(elements).filter(|elements| elements.len() > 1)))
    };
    Arc::new(pairs.iter().map(label).collect())
}

fn asking(pairs: &[(&str, &str)]) -> Criteria {
    Criteria::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

/// Six hosts: v1 on stages prod, dev; v2 on prod, dev; one of both versions; one of which nothing is known.
fn labelled() -> Vec<HostConfig> {
    let all = [
        labels(&[("version", "1"), ("stage", "prod")]),
        labels(&[("version", "1"), ("stage", "dev")]),
        labels(&[("version", "2"), ("stage", "prod")]),
        labels(&[("version", "2"), ("stage", "dev")]),
        labels(&[("version", "1 2"), ("stage", "test")]),
        labels(&[]),
    ];
    (0..).zip(all).map(|(number, labels)| HostConfig { labels, ..host(number) }).collect()
}

fn selector(keys: &[&str], fallback: Option<Fallback>) -> Selector {
    Selector { keys: keys.iter().map(|key| (*key).to_owned()).collect(), fallback }
}

fn settings(fallback: Fallback) -> SubsetSettings {
    SubsetSettings {
        selectors: vec![selector(&["version"], None), selector(&["stage", "version"], None)],
        fallback,
        default: asking(&[("stage", "prod")]),
        locality_weight_aware: false,
        panic_mode_any: false,
        list_as_any: false,
        allow_redundant_keys: false,
    }
}

fn with(settings: SubsetSettings) -> Cluster {
    let balancing = Balancing { subsets: Some(Arc::new(settings)), ..balancing(Policy::RoundRobin) };
    cluster(balancing, &labelled())
}

/// How often each host is picked for 60 requests.
fn picks(cluster: &Cluster, criteria: Option<&Criteria>) -> Vec<usize> {
    let thread = Thread::new();
    let ask = Ask { criteria, ..Ask::default() };
    tally(cluster, (0..60).filter_map(|_| thread.pick(cluster, &ask)))
}

#[test]
fn a_request_gets_the_endpoints_that_have_all_that_it_asks_for() {
    let cluster = with(settings(Fallback::None));
    let of = |pairs: &[(&str, &str)]| picks(&cluster, Some(&asking(pairs)));
    assert_eq!(of(&[("version", "1")]), [30, 30, 0, 0, 0, 0]);
    assert_eq!(of(&[("version", "2"), ("stage", "prod")]), [0, 0, 60, 0, 0, 0]);
    for none in [&[("version", "3")][..], &[("stage", "prod")], &[("version", "1"), ("stage", "x")]] {
        assert_eq!(of(none), [0; 6], "{none:?}");
    }
    assert_eq!(picks(&cluster, None), [0; 6], "who asks for nothing falls back to nobody");
    assert_eq!(cluster.stats.sum(|cells| &cells.lb_subsets_selected), 120);
}

#[test]
fn where_there_is_no_subset_the_fall_back_decides() {
    let unknown = asking(&[("version", "3")]);
    let any = with(settings(Fallback::Any));
    assert_eq!(picks(&any, Some(&unknown)), [10; 6]);
    assert_eq!(picks(&any, None), [10; 6]);
    assert_eq!(any.stats.sum(|cells| &cells.lb_subsets_fallback), 120);
    let default = with(settings(Fallback::Default));
    assert_eq!(picks(&default, Some(&unknown)), [30, 0, 30, 0, 0, 0]);
    let nowhere = SubsetSettings { default: asking(&[("stage", "x")]), ..settings(Fallback::Default) };
    assert_eq!(picks(&with(nowhere.clone()), Some(&unknown)), [0; 6]);
    let anybody = with(SubsetSettings { panic_mode_any: true, ..nowhere });
    assert_eq!(picks(&anybody, Some(&unknown)), [10; 6]);
    assert_eq!(anybody.stats.sum(|cells| &cells.lb_subsets_fallback_panic), 60);
}

#[test]
fn a_selector_may_have_a_fall_back_of_its_own() {
    let both = asking(&[("version", "1"), ("stage", "x")]);
    for (own, expected) in [
        (Fallback::None, [0; 6]),
        (Fallback::Any, [10; 6]),
        (Fallback::Default, [30, 0, 30, 0, 0, 0]),
        (Fallback::Keys(vec!["version".into()]), [30, 30, 0, 0, 0, 0]),
        (Fallback::Keys(vec!["stage".into()]), [0; 6]),
    ] {
        let selectors =
            vec![selector(&["version"], None), selector(&["stage", "version"], Some(own.clone()))];
        let cluster = with(SubsetSettings { selectors, ..settings(Fallback::None) });
        assert_eq!(picks(&cluster, Some(&both)), expected, "{own:?}");
    }
}

#[test]
fn lists_stand_for_each_of_their_elements_and_keys_may_be_redundant_where_that_is_said() {
    let lists = with(SubsetSettings { list_as_any: true, ..settings(Fallback::None) });
    assert_eq!(picks(&lists, Some(&asking(&[("version", "1")]))), [20, 20, 0, 0, 20, 0]);
    assert_eq!(picks(&lists, Some(&asking(&[("version", "2"), ("stage", "test")]))), [0, 0, 0, 0, 60, 0]);
    let more = asking(&[("version", "1"), ("color", "red")]);
    assert_eq!(picks(&lists, Some(&more)), [0; 6]);
    let redundant = with(SubsetSettings { allow_redundant_keys: true, ..settings(Fallback::None) });
    assert_eq!(picks(&redundant, Some(&more)), [30, 30, 0, 0, 0, 0]);
}

#[test]
fn health_counts_within_a_subset_and_changes_are_counted() {
    let cluster = with(settings(Fallback::Any));
    cluster.refresh();
    let first = asking(&[("version", "1")]);
    endpoint(&cluster, 0).set_failing_checks(true);
    cluster.refresh();
    assert_eq!(picks(&cluster, Some(&first)), [0, 60, 0, 0, 0, 0]);
    endpoint(&cluster, 1).set_failing_checks(true);
    cluster.refresh();
    assert_eq!(picks(&cluster, Some(&first)), [30, 30, 0, 0, 0, 0], "panic is the subset's own");
    let known = endpoint(&cluster, 3);
    // Versions 1, 2, "1 2"; and five of both keys.
    assert_eq!(cluster.upkeep.subsets(), 8);
    cluster.replace_endpoints(EndpointSet::new(&labelled()[2..4], &cluster.endpoints.load()));
    let [.., created, removed] = cluster.upkeep.counters().map(|(_, count)| count);
    assert_eq!((cluster.upkeep.subsets(), created, removed), (3, 0, 5));
    assert_eq!(picks(&cluster, Some(&asking(&[("version", "2")]))), [30, 30]);
    assert!(Arc::ptr_eq(&known, &endpoint(&cluster, 1)), "state stays");
}
