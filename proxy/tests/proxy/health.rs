use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_request, statuses, wait_for_metric};

/// Answers 200, or 500 while `sick`.
async fn upstream(sick: &Arc<AtomicBool>) -> Upstream {
    let sick = Arc::clone(sick);
    Upstream::scripted(move |mut stream, _| {
        let sick = Arc::clone(&sick);
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let status = if sick.load(Ordering::SeqCst) { "500 Sick" } else { "200 OK" };
                let _ = stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await;
            }
        }
    })
    .await
}

async fn healthy(proxy: &Proxy, wanted: f64) {
    for _ in 0..100 {
        if proxy.metric("envoy_cluster_membership_healthy").await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    panic!("never {wanted} healthy endpoints");
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_nothing_until_it_passes_again() {
    let (sick, well) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (one, two, three) = (upstream(&sick).await, upstream(&well).await, upstream(&well).await);
    let check = "health_checks: [{ timeout: 1s, interval: 0.05s, unhealthy_threshold: 2, healthy_threshold: 2, http_health_check: { path: /healthz } }]";
    let proxy = Proxy::start(&bootstrap(&[one.address, two.address, three.address], "", "", check)).await;
    healthy(&proxy, 3.0).await;
    sick.store(true, Ordering::SeqCst);
    healthy(&proxy, 2.0).await;
    let answer = raw(proxy.at("http"), &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(20)).await;
    assert_eq!(statuses(&answer), ["200"; 20]);
    sick.store(false, Ordering::SeqCst);
    healthy(&proxy, 3.0).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_errors_in_a_row_is_ejected_for_a_time() {
    let (sick, well) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (one, two) = (upstream(&sick).await, upstream(&well).await);
    // In turn, so that it is the ejection that keeps requests away.
    let outlier = "lb_policy: ROUND_ROBIN\noutlier_detection: { consecutive_5xx: 3, base_ejection_time: 1s, max_ejection_percent: 50 }";
    let proxy = Proxy::start(&bootstrap(&[one.address, two.address], "", "", outlier)).await;
    let answer = raw(proxy.at("http"), &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(40)).await;
    assert_eq!(statuses(&answer).iter().filter(|status| **status == "500").count(), 3);
    sick.store(false, Ordering::SeqCst);
    healthy(&proxy, 2.0).await;
}

/// Sends as many requests and says how many were answered with 500.
async fn errors(proxy: &Proxy, requests: usize) -> usize {
    let answer = raw(proxy.at("http"), &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(requests)).await;
    statuses(&answer).iter().filter(|status| **status == "500").count()
}

#[tokio::test]
async fn an_endpoint_that_fails_more_than_the_others_is_ejected_without_failing_in_a_row() {
    let (sick, well) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    for detector in [
        "enforcing_failure_percentage: 100, failure_percentage_minimum_hosts: 2, failure_percentage_request_volume: 5",
        "success_rate_minimum_hosts: 2, success_rate_request_volume: 5, success_rate_stdev_factor: 500",
    ] {
        let (one, two) = (upstream(&sick).await, upstream(&well).await);
        let cluster = format!(
            "lb_policy: ROUND_ROBIN\noutlier_detection: {{ interval: 0.2s, enforcing_consecutive_5xx: 0, {detector} }}"
        );
        let proxy = Proxy::start(&bootstrap(&[one.address, two.address], "", "", &cluster)).await;
        for _ in 0..100 {
            if errors(&proxy, 40).await == 0 {
                break;
            }
        }
        assert_eq!(errors(&proxy, 40).await, 0, "{detector}");
        assert_eq!(proxy.metric("envoy_cluster_outlier_detection_ejections_active").await, 1.0);
        assert_eq!(proxy.metric("envoy_cluster_outlier_detection_ejections_enforced_total").await, 1.0);
        assert_eq!(
            proxy.metric("envoy_cluster_outlier_detection_ejections_enforced_consecutive_5xx").await,
            0.0
        );
        assert!(
            proxy.metric("envoy_cluster_outlier_detection_ejections_detected_consecutive_5xx").await >= 1.0
        );
    }
}

#[tokio::test]
async fn connections_that_fail_are_told_apart_from_bad_answers_when_split() {
    let sick = Arc::new(AtomicBool::new(true));
    let one = upstream(&sick).await;
    let closed = HeldPort::bind();
    let cluster = "lb_policy: ROUND_ROBIN\noutlier_detection: { split_external_local_origin_errors: true, enforcing_consecutive_5xx: 0, consecutive_local_origin_failure: 3 }";
    let proxy = Proxy::start(&bootstrap(&[one.address, closed.address], "", "", cluster)).await;
    // What was ejected is not asked any more, and all answers are those of the other.
    for _ in 0..100 {
        if errors(&proxy, 10).await == 10 {
            break;
        }
    }
    assert_eq!(errors(&proxy, 10).await, 10);
    let enforced = "envoy_cluster_outlier_detection_ejections_enforced_consecutive_local_origin_failure";
    assert_eq!(proxy.metric(enforced).await, 1.0);
}

#[tokio::test]
async fn what_our_own_limits_refuse_is_no_failure_of_the_endpoint() {
    let silent = Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let cluster = "outlier_detection: { consecutive_5xx: 1 }\ncircuit_breakers: { thresholds: [{ max_connections: 1, max_pending_requests: 0 }] }";
    let proxy = Proxy::with_threads(&bootstrap(&[silent.address], "", "", cluster), 1).await;
    let address = proxy.at("http");
    let first = tokio::spawn(async move { raw(address, "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await });
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 1.0).await;
    let answer = raw(address, "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(statuses(&answer) == ["503"] && answer.contains("overflow"), "{answer}");
    let detected = "envoy_cluster_outlier_detection_ejections_detected_consecutive_5xx";
    assert_eq!(proxy.metric(detected).await, 0.0);
    first.abort();
}
