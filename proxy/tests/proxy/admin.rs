use crate::support::{Proxy, Upstream, bootstrap, raw};

#[tokio::test]
async fn tells_what_runs_and_what_happened() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    for _ in 0..3 {
        raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    }
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
    let clusters: serde_json::Value =
        serde_json::from_str(&proxy.admin("GET", "/clusters?format=json").await).expect("json");
    let host = &clusters["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], upstream.address.port());
    let total = host["stats"]
        .as_array()
        .expect("stats")
        .iter()
        .find(|stat| stat["name"] == "rq_total")
        .expect("rq_total");
    assert_eq!(total["value"], "3");
    let text = proxy.admin("GET", "/stats/prometheus").await;
    for line in [
        "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"up\"} 3",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"up\"} 3",
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"test\"} 3",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"up\"} 3",
        "envoy_cluster_membership_healthy{envoy_cluster_name=\"up\"} 1",
        "envoy_server_live 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let dump: serde_json::Value =
        serde_json::from_str(&proxy.admin("GET", "/config_dump").await).expect("json");
    assert_eq!(dump["configs"][0]["static_clusters"][0]["cluster"]["name"], "up");
    let info: serde_json::Value =
        serde_json::from_str(&proxy.admin("GET", "/server_info").await).expect("json");
    assert_eq!(info["state"], "LIVE");
    assert!(proxy.admin("GET", "/listeners").await.starts_with("http::127.0.0.1:"));
    assert!(proxy.admin("GET", "/clusters").await.contains("up::default_priority::max_connections::1024"));
}

#[tokio::test]
async fn readiness_can_be_taken_back_and_changes_need_a_post() {
    let proxy = Proxy::start(&bootstrap(&[], "", "", "")).await;
    assert!(proxy.admin("GET", "/healthcheck/fail").await.contains("POST required"));
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
    assert_eq!(proxy.admin("POST", "/healthcheck/fail").await, "OK\n");
    assert_eq!(proxy.admin("GET", "/ready").await, "DRAINING\n");
    assert_eq!(proxy.admin("POST", "/healthcheck/ok").await, "OK\n");
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
    proxy.admin("POST", "/quitquitquit").await;
    proxy.server.quit_requested().await;
}
