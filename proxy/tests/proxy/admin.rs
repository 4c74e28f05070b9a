use serde_json::{Value, json};
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{Proxy, Upstream, bootstrap, raw};

#[tokio::test]
async fn tells_what_runs_and_what_happened() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    for _ in 0..3 {
        raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    }
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
    let clusters: Value =
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
    let dump: Value = serde_json::from_str(&proxy.admin("GET", "/config_dump").await).expect("json");
    assert_eq!(dump["configs"][1]["static_clusters"][0]["cluster"]["name"], "up");
    let info: Value = serde_json::from_str(&proxy.admin("GET", "/server_info").await).expect("json");
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

/// Status and body.
async fn ask(proxy: &Proxy, method: &str, path: &str) -> (u16, String) {
    let address = proxy.server.admin_address().expect("an admin address");
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let answer = raw(address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

async fn ask_json(proxy: &Proxy, path: &str) -> Value {
    serde_json::from_str(&ask(proxy, "GET", path).await.1).expect("json")
}

#[tokio::test]
async fn what_changes_something_needs_a_post_and_what_is_not_there_lists_what_is() {
    let proxy = Proxy::start(&bootstrap(&[], "", "", "")).await;
    for path in [
        "/logging",
        "/quitquitquit",
        "/healthcheck/fail",
        "/drain_listeners",
        "/reset_counters",
        "/reopen_logs",
    ] {
        let (status, body) = ask(&proxy, "GET", path).await;
        assert_eq!((status, body.as_str()), (405, "Method GET not allowed, POST required."), "{path}");
    }
    let (status, body) = ask(&proxy, "GET", "/nope").await;
    assert!(status == 404 && body.starts_with("invalid path. admin commands are:\n  /: "), "{body}");
    let (_, help) = ask(&proxy, "GET", "/help").await;
    assert!(help.contains("  /quitquitquit (POST): exit the server\n"), "{help}");
    let (status, body) = ask(&proxy, "POST", "/reset_counters").await;
    assert!(status == 501 && body.contains("cannot be reset"), "{body}");
}

#[tokio::test]
async fn stats_have_the_names_of_envoy_in_each_format_and_can_be_selected() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    let (_, text) = ask(&proxy, "GET", "/stats").await;
    for line in [
        "cluster.up.upstream_rq_total: 1",
        "cluster.up.upstream_rq_2xx: 1",
        "cluster.up.membership_healthy: 1",
        "http.test.downstream_rq_2xx: 1",
        "server.live: 1",
        "listener_manager.total_listeners_active: 1",
        "access_log_file.write_total_buffered: 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("cluster.up.upstream_rq_time: P0(nan,"), "{text}");
    assert_eq!(
        ask_json(&proxy, "/stats?format=json&filter=^cluster.up.upstream_rq_total$").await,
        json!({"stats": [{"name": "cluster.up.upstream_rq_total", "value": 1}]})
    );
    let times = ask_json(&proxy, "/stats?format=json&filter=upstream_rq_time$").await;
    let computed = &times["stats"][0]["histograms"]["computed_quantiles"][0];
    assert_eq!(computed["name"], "cluster.up.upstream_rq_time");
    assert_eq!(computed["values"].as_array().map(Vec::len), Some(10));
    let (_, used) = ask(&proxy, "GET", "/stats?usedonly&filter=%5Ehttp.test").await;
    assert!(used.lines().count() > 3 && used.lines().all(|line| !line.ends_with(": 0")), "{used}");
    let (_, prometheus) = ask(&proxy, "GET", "/stats/prometheus?filter=cluster.up.upstream_rq_total").await;
    assert!(
        prometheus.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"up\"} 1"),
        "{prometheus}"
    );
    assert!(!prometheus.contains("envoy_http"), "{prometheus}");
    assert_eq!(ask(&proxy, "GET", "/stats?format=foo").await.0, 400);
    assert_eq!(ask(&proxy, "GET", "/stats?filter=%5B").await.0, 400);
}

#[tokio::test]
async fn a_dump_of_the_configuration_can_be_cut_to_what_is_wanted() {
    let proxy = Proxy::start(&bootstrap(&[([127, 0, 0, 1], 1).into()], "", "", "")).await;
    let all = ask_json(&proxy, "/config_dump").await;
    let types: Vec<&str> = all["configs"]
        .as_array()
        .expect("configs")
        .iter()
        .filter_map(|config| config["@type"].as_str()?.rsplit('.').next())
        .collect();
    assert_eq!(
        types,
        ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"]
    );
    assert!(all["configs"][1]["static_clusters"][0]["last_updated"].is_string());
    let listener = ask_json(&proxy, "/config_dump?resource=static_listeners").await;
    assert_eq!(
        listener["configs"][0]["@type"],
        "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.StaticListener"
    );
    assert_eq!(listener["configs"][0]["listener"]["name"], "http");
    // Word for word what Envoy 1.40 answers.
    assert_eq!(
        ask_json(&proxy, "/config_dump?resource=static_clusters&mask=cluster.name").await,
        json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "up"}
        }]})
    );
    assert_eq!(
        ask(&proxy, "GET", "/config_dump?resource=nope").await,
        (404, "nope not found in config dump".to_owned())
    );
    assert_eq!(ask(&proxy, "GET", "/config_dump?mask=nope").await.0, 400);
    let none = ask_json(&proxy, "/config_dump?name_regex=no.*").await;
    assert_eq!(none["configs"][1]["static_clusters"], json!([]));
    let with_endpoints = ask_json(&proxy, "/config_dump?include_eds").await;
    assert_eq!(with_endpoints["configs"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn clusters_listeners_and_the_process_are_shown_as_envoy_does() {
    let address = ([127, 0, 0, 1], 1).into();
    let proxy = Proxy::start(&bootstrap(&[address], "", "", "")).await;
    let clusters = ask_json(&proxy, "/clusters?format=json").await;
    // No number is configured: a fifth of the requests, and at most this many of them saved up.
    assert_eq!(clusters["cluster_statuses"][0]["circuit_breakers"]["thresholds"][0]["max_retries"], 100);
    assert!(ask(&proxy, "GET", "/clusters").await.1.contains("up::127.0.0.1:1::success_rate::-1\n"));
    assert_eq!(ask(&proxy, "GET", "/clusters?filter=nope").await.1, "");
    let listeners = ask_json(&proxy, "/listeners?format=json").await;
    assert_eq!(
        listeners,
        json!({"listener_statuses": [{"name": "http", "local_address": {"socket_address":
            {"address": "127.0.0.1", "port_value": proxy.at("http").port()}}}]})
    );
    let info = ask_json(&proxy, "/server_info").await;
    assert_eq!((&info["state"], &info["command_line_options"]["concurrency"]), (&json!("LIVE"), &json!(2)));
    assert_eq!(info["hot_restart_version"], "disabled");
    let memory = ask_json(&proxy, "/memory").await;
    let bytes = |name: &str| memory[name].as_str().and_then(|bytes| bytes.parse::<u64>().ok()).expect(name);
    assert!(bytes("allocated") > 0 && bytes("allocated") <= bytes("total_physical_bytes"));
    assert_eq!(ask_json(&proxy, "/runtime").await, json!({"entries": {}, "layers": []}));
}

#[tokio::test]
async fn log_levels_are_listed_and_what_is_wrong_is_told() {
    let proxy = Proxy::start(&bootstrap(&[], "", "", "")).await;
    let (status, list) = ask(&proxy, "POST", "/logging").await;
    assert!(status == 200 && list.starts_with("active loggers:\n  access_log: info\n"), "{list}");
    let (status, error) = ask(&proxy, "POST", "/logging?level=foo").await;
    assert!(status == 400 && error.starts_with("error: unknown logger level\n\nusage: /logging"), "{error}");
    let (status, error) = ask(&proxy, "POST", "/logging?nope=debug").await;
    assert!(status == 400 && error.starts_with("error: unknown logger name\n"), "{error}");
}

#[test]
fn what_the_bootstrap_asks_for_and_is_not_there_is_refused_by_name() {
    let traffic = bootstrap(&[], "", "", "");
    for (field, path) in [
        (
            "layered_runtime: { layers: [{ name: a, static_layer: { re2.max_program_size: 1 } }] }",
            "layered_runtime.layers[0].static_layer.re2.max_program_size: is not supported",
        ),
        ("stats_config: { use_all_default_tags: false }", "stats_config: is not supported"),
        ("enable_worker_cpu_affinity: true", "enable_worker_cpu_affinity: is not supported"),
        ("admin: { access_log_path: /dev/null }", "admin.access_log_path: is not supported"),
    ] {
        let message = parse_bootstrap(&format!("{field}\n{traffic}"), Format::Yaml).expect(field);
        assert_eq!(validate(message).expect_err(field).to_string(), path);
    }
}
