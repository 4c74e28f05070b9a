use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Proxy, Upstream, bootstrap, raw, read_request, statuses};

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
    let outlier =
        "outlier_detection: { consecutive_5xx: 3, base_ejection_time: 1s, max_ejection_percent: 50 }";
    let proxy = Proxy::start(&bootstrap(&[one.address, two.address], "", "", outlier)).await;
    let answer = raw(proxy.at("http"), &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(40)).await;
    assert_eq!(statuses(&answer).iter().filter(|status| **status == "500").count(), 3);
    sick.store(false, Ordering::SeqCst);
    healthy(&proxy, 2.0).await;
}
