//! Filters that learn from how requests ended, and what filters say about requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, sync::Semaphore};

use crate::{
    access_log::{lines, log},
    filters::{HTTP, TO_UP, filter, filtered},
    support::{Proxy, Upstream, raw, read_request, statuses},
};

async fn get(address: SocketAddr, target: &str) -> String {
    raw(address, &format!("GET {target} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn while_too_many_requests_fail_a_share_is_sent_away_until_they_succeed_again() {
    let failing = Arc::new(AtomicBool::new(true));
    let asked = Arc::new(AtomicUsize::new(0));
    let (fails, counts) = (Arc::clone(&failing), Arc::clone(&asked));
    let up = Upstream::scripted(move |mut stream, _| {
        let (fails, counts) = (Arc::clone(&fails), Arc::clone(&counts));
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                counts.fetch_add(1, Ordering::SeqCst);
                let status = if fails.load(Ordering::SeqCst) { "500 No" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let control = filter(
        "control",
        "admission_control.v3.AdmissionControl",
        "sampling_window: 2s, success_criteria: {}",
    );
    let proxy = Proxy::start(&filtered(up.address, &[&control], &[TO_UP])).await;
    let mut away = 0;
    for _ in 0..60 {
        let answer = get(proxy.at("http"), "/").await;
        away += usize::from(statuses(&answer) == ["503"]);
    }
    // Of requests that all fail at most four in five; some are always let through, to find out.
    assert!((20..60).contains(&away), "{away}");
    assert_eq!(asked.load(Ordering::SeqCst), 60 - away);
    assert_eq!(proxy.metric("envoy_http_admission_control_rq_rejected").await, away as f64);
    assert_eq!(proxy.metric("envoy_http_admission_control_rq_failure").await, (60 - away) as f64);
    failing.store(false, Ordering::SeqCst);
    let mut in_a_row = 0;
    for _ in 0..2000 {
        in_a_row = if statuses(&get(proxy.at("http"), "/").await) == ["200"] { in_a_row + 1 } else { 0 };
        if in_a_row == 50 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not recover");
}

#[tokio::test]
async fn a_slow_upstream_gets_no_more_requests_at_once_than_it_can_answer() {
    // Nothing is answered before the test says so; from then on each answer takes as long as it says.
    let gate = Arc::new(Semaphore::new(0));
    let slow = Arc::new(AtomicBool::new(false));
    let (opens, is_slow) = (Arc::clone(&gate), Arc::clone(&slow));
    let up = Upstream::scripted(move |mut stream, _| {
        let (opens, is_slow) = (Arc::clone(&opens), Arc::clone(&is_slow));
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                drop(opens.acquire().await);
                let pause = if is_slow.load(Ordering::SeqCst) { 200 } else { 5 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let limit = "gradient_controller_config: { concurrency_limit_params: { concurrency_update_interval: 0.05s }, \
                 min_rtt_calc_params: { interval: 600s, request_count: 4, min_concurrency: 2, jitter: { value: 0 }, buffer: { value: 100 } } }";
    let limit = filter("limit", "adaptive_concurrency.v3.AdaptiveConcurrency", limit);
    let proxy = Proxy::start(&filtered(up.address, &[&limit], &[TO_UP])).await;
    let http = proxy.at("http");
    let metric = async |name: &str| {
        proxy.metric(&format!("envoy_http_adaptive_concurrency_gradient_controller_{name}")).await
    };
    let held = [
        tokio::spawn(async move { get(http, "/").await }),
        tokio::spawn(async move { get(http, "/").await }),
    ];
    crate::support::wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 2.0).await;
    // As many as are let through while the minimum is measured are on their way.
    let refused = get(http, "/").await;
    assert_eq!(statuses(&refused), ["503"]);
    assert!(refused.ends_with("reached concurrency limit"), "{refused}");
    assert_eq!((metric("rq_blocked").await, metric("concurrency_limit").await), (1.0, 2.0));
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for held in held {
        assert_eq!(statuses(&held.await.expect("no panic")), ["200"]);
    }
    // Those that were held made the first measurement long, which leaves room to grow.
    let until = async |what: &str, reached: &dyn Fn(f64) -> bool| {
        for _ in 0..1000 {
            get(http, "/").await;
            if reached(metric("concurrency_limit").await) {
                return;
            }
        }
        panic!("the limit does not {what}");
    };
    until("grow", &|limit| limit >= 8.0).await;
    assert_eq!(metric("min_rtt_calculation_active").await, 0.0);
    slow.store(true, Ordering::SeqCst);
    let before = metric("concurrency_limit").await;
    until("shrink", &|limit| limit < before).await;
    slow.store(false, Ordering::SeqCst);
    until("recover", &|limit| limit >= before).await;
}

#[tokio::test]
async fn what_a_filter_says_is_heard_by_rbac_and_written_into_logs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let up = Upstream::echo().await;
    let say = filter(
        "say",
        "set_metadata.v3.Config",
        "metadata: [{ metadata_namespace: ns, value: { kind: good, n: 5, half: 0.5 } }, { metadata_namespace: ns, value: { kind: late } }]",
    );
    let rules = |kind: &str| {
        format!(
            "rules: {{ policies: {{ p: {{ permissions: [{{ any: true }}], principals: [{{ metadata: {{ filter: ns, path: [{{ key: kind }}], value: {{ string_match: {{ exact: {kind} }} }} }} }}] }} }} }}"
        )
    };
    let base = filter("rbac", "rbac.v3.RBAC", &rules("good"));
    let late = format!(
        "{{ match: {{ path: /late }}, route: {{ cluster: up }}, typed_per_filter_config: {{ rbac: {{ \"@type\": {HTTP}.rbac.v3.RBACPerRoute, rbac: {{ {} }} }} }} }}",
        rules("late")
    );
    let format = "log_format: { json_format: { kind: '%DYNAMIC_METADATA(ns:kind)%', n: '%DYNAMIC_METADATA(ns:n)%', \
                  all: '%DYNAMIC_METADATA(ns)%', text: 'n=%DYNAMIC_METADATA(ns)%', none: '%DYNAMIC_METADATA(other:x)%' } }";
    let bootstrap = filtered(up.address, &[&say, &base], &[&late, TO_UP]);
    let logs: String = log(&path, "", format).lines().map(|line| format!("{:16}{line}\n", "")).collect();
    let bootstrap = bootstrap.replacen(
        "                route_config:",
        &format!("{logs}                route_config:"),
        1,
    );
    let proxy = Proxy::start(&bootstrap).await;
    assert_eq!(statuses(&get(proxy.at("http"), "/").await), ["200"]);
    assert_eq!(statuses(&get(proxy.at("http"), "/late").await), ["403"]);
    assert_eq!(proxy.metric("envoy_http_set_metadata_overwrite_denied").await, 2.0);
    let line: serde_json::Value = serde_json::from_str(&lines(&path, 1).await[0]).expect("json");
    let said = serde_json::json!({"kind": "good", "n": 5, "half": 0.5});
    assert_eq!((&line["kind"], &line["n"], &line["all"]), (&said["kind"], &said["n"], &said));
    assert_eq!(line["none"], serde_json::Value::Null);
    assert_eq!(line["text"], format!("n={said}"));
}
