//! Shares by what endpoints report of their load.

use super::*;

fn weighted_by_reports() -> Balancing {
    Balancing { reports: Some(Arc::new(LoadReports::default())), ..balancing(Policy::RoundRobin) }
}

#[tokio::test(start_paused = true)]
async fn endpoints_get_what_their_reports_say_and_the_median_while_they_say_nothing() {
    let cluster = Arc::new(cluster(weighted_by_reports(), &hosts(4)));
    let _task = tokio::spawn(keep_current(Arc::downgrade(&cluster), None));
    assert_eq!(pick_many(&cluster, 100), [25; 4]);
    let report = |weights: [f64; 3]| {
        for (number, weight) in weights.into_iter().enumerate() {
            endpoint(&cluster, number).reported.record(weight);
        }
    };
    report([100.0, 200.0, 500.0]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pick_many(&cluster, 100), [25; 4], "the blackout period");
    report([100.0, 200.0, 500.0]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    // The fourth gets the median.
    assert_eq!(pick_many(&cluster, 1000), [100, 200, 500, 200]);
    report([400.0, 200.0, 200.0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pick_many(&cluster, 1000), [400, 200, 200, 200], "weights follow within the update period");
    // An update of the set forgets nothing.
    cluster.replace_endpoints(EndpointSet::new(&hosts(3), &cluster.endpoints.load()));
    assert_eq!(pick_many(&cluster, 1000), [500, 250, 250]);
    tokio::time::sleep(Duration::from_secs(181)).await;
    assert_eq!(pick_many(&cluster, 99), [33; 3], "reports that are too old say nothing");
}
