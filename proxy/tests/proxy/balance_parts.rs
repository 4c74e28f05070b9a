//! Parts of a cluster, and endpoints that requests go to whatever the balancer says.

use tokio::io::AsyncWriteExt as _;

use crate::{
    filters::filtered,
    support::{Proxy, Upstream, bootstrap, raw, read_request, statuses},
};

/// Upstreams that answer with their number and these fields.
async fn upstreams(fields: &[&'static str]) -> Vec<Upstream> {
    let mut all = Vec::new();
    for (number, fields) in fields.iter().copied().enumerate() {
        let upstream = Upstream::scripted(move |mut stream, _| async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n{fields}\r\n{number}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        all.push(upstream.await);
    }
    all
}

/// An endpoint as a line of flow YAML.
fn endpoint(upstream: &Upstream, metadata: &str) -> String {
    let (ip, port) = (upstream.address.ip(), upstream.address.port());
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}, metadata: {{ filter_metadata: {{ envoy.lb: {{ {metadata} }} }} }} }}"
    )
}

/// The answer to a request for `target` with these fields, on a connection of its own.
async fn ask(proxy: &Proxy, target: &str, fields: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n{fields}\r\n");
    raw(proxy.at("http"), &request).await
}

/// Which upstream answered.
fn number(answer: &str) -> char {
    answer.chars().last().expect("a body")
}

/// Who answers this many requests, in order of their numbers.
async fn answering(proxy: &Proxy, target: &str, count: usize) -> String {
    let mut seen = String::new();
    for _ in 0..count {
        let answer = ask(proxy, target, "").await;
        assert_eq!(statuses(&answer), ["200"], "{answer}");
        seen.push(number(&answer));
    }
    let mut seen: Vec<char> = seen.chars().collect();
    seen.sort_unstable();
    seen.into_iter().collect()
}

/// The bootstrap with these routes and the cluster's endpoints, each a line of flow YAML, and further lines of the cluster.
fn with(routes: &[&str], endpoints: &[String], cluster: &str) -> String {
    let plain = filtered("127.0.0.1:1".parse().expect("an address"), &[], routes);
    let (start, rest) = plain.split_once("      load_assignment:").expect("a cluster");
    let rest = rest.split_once("          - lb_endpoints:\n").expect("endpoints").0;
    let cluster: String = cluster.lines().map(|line| format!("      {line}\n")).collect();
    let endpoints: String = endpoints.iter().map(|line| format!("              - {line}\n")).collect();
    format!("{start}{cluster}      load_assignment:{rest}          - lb_endpoints:\n{endpoints}")
}

#[tokio::test]
async fn routes_and_weighted_clusters_choose_a_subset_and_fall_back_where_there_is_none() {
    let up = upstreams(&["", "", ""]).await;
    let endpoints = [
        endpoint(&up[0], "version: \"1\", stage: prod"),
        endpoint(&up[1], "version: \"2\", stage: prod"),
        endpoint(&up[2], "version: \"2\", stage: dev"),
    ];
    let to = |prefix: &str, metadata: &str| {
        format!(
            "{{ match: {{ prefix: {prefix} }}, route: {{ cluster: up, metadata_match: {{ filter_metadata: {{ envoy.lb: {{ {metadata} }} }} }} }} }}"
        )
    };
    let (one, two) = (to("/one", "version: \"1\""), to("/two", "version: \"2\""));
    let (none, number) = (to("/none", "version: \"3\""), to("/number", "version: 1"));
    let weighted = "{ match: { prefix: /dev }, route: { metadata_match: { filter_metadata: { envoy.lb: { version: \"2\", stage: prod } } }, weighted_clusters: { clusters: [{ name: up, weight: 1, metadata_match: { filter_metadata: { envoy.lb: { stage: dev } } } }] } } }";
    let plain = "{ match: { prefix: / }, route: { cluster: up } }";
    let routes = [one.as_str(), &two, &none, &number, weighted, plain];
    let subsets = "lb_policy: ROUND_ROBIN\nlb_subset_config: { fallback_policy: DEFAULT_SUBSET, default_subset: { stage: dev }, subset_selectors: [{ keys: [version] }, { keys: [version, stage] }] }";
    let extension = "load_balancing_policy: { policies: [{ typed_extension_config: { name: s, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, fallback_policy: DEFAULT_SUBSET, default_subset: { stage: dev }, subset_selectors: [{ keys: [version] }, { keys: [version, stage] }], subset_lb_policy: { policies: [{ typed_extension_config: { name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin } } }] } } } }] }";
    for cluster in [subsets, extension] {
        let proxy = Proxy::with_threads(&with(&routes, &endpoints, cluster), 1).await;
        assert_eq!(answering(&proxy, "/one", 4).await, "0000");
        assert_eq!(answering(&proxy, "/two", 4).await, "1122");
        assert_eq!(answering(&proxy, "/dev", 4).await, "2222", "the weighted cluster has the last word");
        assert_eq!(answering(&proxy, "/none", 2).await, "22");
        assert_eq!(answering(&proxy, "/number", 2).await, "22", "a number is no text");
        assert_eq!(answering(&proxy, "/", 2).await, "22");
        assert_eq!(proxy.metric("envoy_cluster_lb_subsets_selected").await, 12.0);
        assert_eq!(proxy.metric("envoy_cluster_lb_subsets_fallback").await, 6.0);
        assert_eq!(proxy.metric("envoy_cluster_lb_subsets_active").await, 5.0);
    }
    let strict = subsets.replace("DEFAULT_SUBSET", "NO_FALLBACK");
    let proxy = Proxy::start(&with(&routes, &endpoints, &strict)).await;
    assert_eq!(statuses(&ask(&proxy, "/none", "").await), ["503"]);
}

#[tokio::test]
async fn traffic_stays_in_the_zone_of_the_proxy_that_the_bootstrap_names() {
    let up = upstreams(&["", ""]).await;
    let port = |number: usize| up[number].address.port();
    let endpoints = |name: &str, a: u16, b: u16| {
        let zone = |zone: &str, port: u16| {
            format!(
                "          - {{ locality: {{ zone: {zone} }}, lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}\n"
            )
        };
        format!(
            "      load_assignment:\n        cluster_name: {name}\n        endpoints:\n{}{}",
            zone("a", a),
            zone("b", b)
        )
    };
    let plain = bootstrap(&[], "", "", "common_lb_config: { zone_aware_lb_config: { min_cluster_size: 2 } }");
    let (start, _) = plain.split_once("      load_assignment:").expect("a cluster");
    for (zone, expected) in [("a", "0000"), ("b", "1111"), ("c", "0011")] {
        let text = format!(
            "node: {{ id: p, cluster: c, locality: {{ zone: {zone} }} }}\ncluster_manager: {{ local_cluster_name: proxies }}\n{start}{}    - name: proxies\n      lb_policy: ROUND_ROBIN\n{}",
            endpoints("up", port(0), port(1)),
            endpoints("proxies", 1, 2)
        )
        .replace("    - name: up\n", "    - name: up\n      lb_policy: ROUND_ROBIN\n");
        let proxy = Proxy::with_threads(&text, 1).await;
        assert_eq!(answering(&proxy, "/", 4).await, expected, "from zone {zone}");
        let direct = if zone == "c" { 0.0 } else { 4.0 };
        assert_eq!(proxy.metric("envoy_cluster_lb_zone_routing_all_directly").await, direct);
    }
}

#[tokio::test]
async fn endpoints_that_report_less_load_get_more_requests() {
    let reports = [
        "endpoint-load-metrics: TEXT rps_fractional=100,application_utilization=0.5\r\n",
        "endpoint-load-metrics: JSON {\"rpsFractional\": 300, \"applicationUtilization\": 0.5}\r\n",
    ];
    let up = upstreams(&reports).await;
    let addresses: Vec<_> = up.iter().map(|upstream| upstream.address).collect();
    let policy = "load_balancing_policy: { policies: [{ typed_extension_config: { name: w, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin, blackout_period: 0s, weight_update_period: 0.1s } } }] }";
    let proxy = Proxy::with_threads(&bootstrap(&addresses, "", "", policy), 1).await;
    for _ in 0..100 {
        if answering(&proxy, "/", 8).await == "00111111" {
            return;
        }
    }
    panic!("weights are not followed");
}

#[tokio::test]
async fn a_report_may_come_in_the_trailers() {
    let upstream = |rps: u32| {
        Upstream::scripted(move |mut stream, _| async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: endpoint-load-metrics\r\n\r\n1\r\n{}\r\n0\r\nendpoint-load-metrics: TEXT rps_fractional={rps},cpu_utilization=0.5\r\n\r\n",
                    rps / 100
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
    };
    let (one, three) = (upstream(100).await, upstream(300).await);
    let policy = "load_balancing_policy: { policies: [{ typed_extension_config: { name: w, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin, blackout_period: 0s, weight_update_period: 0.1s } } }] }";
    let proxy = Proxy::with_threads(&bootstrap(&[one.address, three.address], "", "", policy), 1).await;
    for _ in 0..100 {
        let mut three = 0;
        for _ in 0..8 {
            let answer = ask(&proxy, "/", "").await;
            three += usize::from(answer.contains("\r\n1\r\n3\r\n"));
        }
        if three == 6 {
            return;
        }
    }
    panic!("weights are not followed");
}

const SESSION: &str = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";

fn by_cookie(fields: &str) -> String {
    format!(
        "{{ name: s, typed_config: {{ \"@type\": {SESSION}, stat_prefix: mine, {fields} session_state: {{ name: c, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState, cookie: {{ name: home, path: /app, ttl: 60s }} }} }} }} }}"
    )
}

/// The bootstrap with this filter, a route that has none of it, and these endpoints.
fn sticky(filter: &str, up: &[Upstream], cluster: &str) -> String {
    let off = "{ match: { prefix: /app/off }, route: { cluster: up }, typed_per_filter_config: { s: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute, disabled: true } } }";
    let endpoints: Vec<String> = up.iter().map(|upstream| endpoint(upstream, "")).collect();
    let text = with(&[off, "{ match: { prefix: / }, route: { cluster: up } }"], &endpoints, cluster);
    text.replacen("http_filters:\n", &format!("http_filters:\n                  - {filter}\n"), 1)
}

#[tokio::test]
async fn a_stateful_session_leads_back_by_its_cookie_as_long_as_the_endpoint_is_there() {
    let up = upstreams(&["", "", ""]).await;
    let proxy = Proxy::with_threads(&sticky(&by_cookie(""), &up, "lb_policy: ROUND_ROBIN"), 1).await;
    let first = ask(&proxy, "/app", "").await;
    let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(
        cookie.starts_with("home=\"") && cookie.ends_with("; Max-Age=60; Path=/app; HttpOnly"),
        "{cookie}"
    );
    let pair = format!("cookie: {}\r\n", cookie.split(';').next().expect("a pair"));
    for _ in 0..5 {
        let again = ask(&proxy, "/app/x", &pair).await;
        assert!(number(&again) == number(&first) && !again.contains("set-cookie"), "{again}");
    }
    for elsewhere in ["/app/off", "/other", "/apple"] {
        let answers = [ask(&proxy, elsewhere, &pair).await, ask(&proxy, elsewhere, &pair).await];
        assert_ne!(number(&answers[0]), number(&answers[1]), "{elsewhere} is no part of the session");
        assert!(!answers[0].contains("set-cookie"));
    }
    // An endpoint that is not there: another one, and the client is told.
    let gone = "cookie: home=\"Cg4yMDMuMC4xMTMuMTo4MA==\"\r\n";
    assert!(ask(&proxy, "/app", gone).await.contains("set-cookie: home="));
    for (metric, value) in [("routed", 5.0), ("failed_open", 2.0), ("failed_closed", 0.0)] {
        assert_eq!(proxy.metric(&format!("envoy_http_stateful_session_{metric}")).await, value, "{metric}");
    }
    let strict = by_cookie("strict: true, status_on_strict_destination_not_found: 410,");
    let proxy = Proxy::start(&sticky(&strict, &up, "lb_policy: ROUND_ROBIN")).await;
    let answer = ask(&proxy, "/app", gone).await;
    assert_eq!(statuses(&answer), ["410"]);
    assert!(!answer.contains("set-cookie"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_stateful_session_failed_closed").await, 1.0);
    assert_eq!(statuses(&ask(&proxy, "/app", "").await), ["200"]);
}

#[tokio::test]
async fn a_stateful_session_may_be_kept_in_a_field() {
    let up = upstreams(&["", ""]).await;
    let filter = format!(
        "{{ name: s, typed_config: {{ \"@type\": {SESSION}, session_state: {{ name: h, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState, name: x-home }} }} }} }}"
    );
    let proxy = Proxy::with_threads(&sticky(&filter, &up, "lb_policy: ROUND_ROBIN"), 1).await;
    let first = ask(&proxy, "/", "").await;
    let home = first.lines().find_map(|line| line.strip_prefix("x-home: ")).expect("a field");
    for _ in 0..4 {
        let again = ask(&proxy, "/", &format!("x-home: {home}\r\n")).await;
        assert!(number(&again) == number(&first) && !again.contains("x-home"), "{again}");
    }
    // Statuses for which it is not followed.
    let never =
        "lb_policy: ROUND_ROBIN\ncommon_lb_config: { override_host_status: { statuses: [DRAINING] } }";
    let proxy = Proxy::with_threads(&sticky(&filter, &up, never), 1).await;
    let field = format!("x-home: {home}\r\n");
    assert_ne!(number(&ask(&proxy, "/", &field).await), number(&ask(&proxy, "/", &field).await));
}
