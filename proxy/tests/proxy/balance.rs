//! Who gets a request, as far as the configuration says it.

use tokio::io::AsyncWriteExt as _;

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_request, statuses};

/// Three upstreams that answer with their number.
async fn upstreams() -> Vec<Upstream> {
    let mut all = Vec::new();
    for number in 0..3 {
        let upstream = Upstream::scripted(move |mut stream, _| async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        all.push(upstream.await);
    }
    all
}

async fn start(upstreams: &[Upstream], route: &str, cluster: &str) -> Proxy {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    Proxy::start(&bootstrap(&addresses, "", route, cluster)).await
}

/// The answer to a request with these fields, on a connection of its own.
async fn get(proxy: &Proxy, fields: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: w\r\nconnection: close\r\n{fields}\r\n");
    let answer = raw(proxy.at("http"), &request).await;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    answer
}

/// Which upstream answered.
fn number(answer: &str) -> char {
    answer.chars().last().expect("a body")
}

#[tokio::test]
async fn requests_with_the_same_field_go_to_the_same_endpoint() {
    let upstreams = upstreams().await;
    let route = "hash_policy: [{ header: { header_name: x-user } }]";
    for policy in ["RING_HASH", "MAGLEV"] {
        let proxy = start(&upstreams, route, &format!("lb_policy: {policy}")).await;
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..20 {
            let field = format!("x-user: {user}\r\n");
            let first = number(&get(&proxy, &field).await);
            assert_eq!(number(&get(&proxy, &field).await), first);
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "twenty users of three endpoints");
    }
}

#[tokio::test]
async fn a_client_is_given_a_cookie_that_leads_it_back() {
    let upstreams = upstreams().await;
    let route = "hash_policy: [{ cookie: { name: stick, ttl: 60s, path: /a } }]";
    let proxy = start(&upstreams, route, "lb_policy: RING_HASH").await;
    let first = get(&proxy, "").await;
    let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(
        cookie.starts_with("stick=\"") && cookie.ends_with("; Max-Age=60; Path=/a; HttpOnly"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().expect("a pair");
    for _ in 0..5 {
        let again = get(&proxy, &format!("cookie: {pair}\r\n")).await;
        assert_eq!(number(&again), number(&first));
        assert!(!again.contains("set-cookie"), "{again}");
    }
}

#[tokio::test]
async fn a_file_that_names_no_policy_gets_peak_ewma_and_says_so() {
    let upstreams = upstreams().await;
    let silent = start(&upstreams, "", "").await.admin("GET", "/config_dump").await;
    assert!(silent.contains("peak_ewma.v3alpha.PeakEwma"), "{silent}");
    let named = start(&upstreams, "", "lb_policy: ROUND_ROBIN").await.admin("GET", "/config_dump").await;
    assert!(!named.contains("peak_ewma"), "{named}");
}

#[tokio::test]
async fn the_next_priority_serves_while_the_first_fails_its_checks() {
    let upstreams = upstreams().await;
    let dead = HeldPort::bind();
    let check = "health_checks: [{ timeout: 1s, interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {} }]";
    let backup = upstreams[0].address;
    let text = bootstrap(&[dead.address], "", "", check)
        + &format!(
            "          - priority: 1\n            lb_endpoints:\n              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n",
            backup.ip(),
            backup.port()
        );
    let proxy = Proxy::start(&text).await;
    crate::support::wait_for_metric(&proxy, "envoy_cluster_membership_healthy", 1.0).await;
    for _ in 0..10 {
        assert_eq!(number(&get(&proxy, "").await), '0');
    }
}
