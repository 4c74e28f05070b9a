use std::net::SocketAddr;

use crate::support::{Proxy, Upstream, bootstrap, raw, statuses};

/// A proxy with these routes (each a line of flow YAML) to the clusters `up` and `other`.
async fn proxy(up: SocketAddr, other: SocketAddr, routes: &[&str]) -> Proxy {
    let plain = bootstrap(&[up], "", "", "");
    let (start, rest) = plain.split_once("                        - match:").expect("routes");
    let (_, end) = rest.split_once("                http_filters:").expect("filters");
    let routes: String = routes.iter().map(|route| format!("                        - {route}\n")).collect();
    let other = format!(
        "    - name: other\n      load_assignment: {{ cluster_name: other, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ hostname: other.example, address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }}\n",
        other.ip(),
        other.port()
    );
    Proxy::start(&format!("{start}{routes}                http_filters:{end}{other}")).await
}

#[tokio::test]
async fn the_first_route_that_matches_decides() {
    let (up, other) =
        (Upstream::echo().await, Upstream::canned("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await);
    let routes = [
        "{ match: { path: /exact }, direct_response: { status: 201, body: { inline_string: made } } }",
        "{ match: { path_separated_prefix: /sep }, direct_response: { status: 202 } }",
        "{ match: { safe_regex: { regex: '/r[0-9]+' } }, direct_response: { status: 203 } }",
        "{ match: { prefix: /, headers: [{ name: x-kind, string_match: { exact: a } }] }, direct_response: { status: 204 } }",
        "{ match: { prefix: /, headers: [{ name: ':method', string_match: { exact: DELETE } }] }, direct_response: { status: 403 } }",
        "{ match: { prefix: /, query_parameters: [{ name: q, string_match: { prefix: v } }] }, direct_response: { status: 205 } }",
        "{ match: { prefix: /other }, route: { cluster: other } }",
        "{ match: { prefix: / }, route: { cluster: up } }",
    ];
    let proxy = proxy(up.address, other.address, &routes).await;
    for (request, status) in [
        ("GET /exact HTTP/1.1\r\nHost: w\r\n\r\n", "201"),
        ("GET /exact/more HTTP/1.1\r\nHost: w\r\n\r\n", "200"),
        ("GET /sep/x HTTP/1.1\r\nHost: w\r\n\r\n", "202"),
        ("GET /separate HTTP/1.1\r\nHost: w\r\n\r\n", "200"),
        ("GET /r12 HTTP/1.1\r\nHost: w\r\n\r\n", "203"),
        ("GET /r12x HTTP/1.1\r\nHost: w\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: w\r\nX-Kind: a\r\n\r\n", "204"),
        ("DELETE / HTTP/1.1\r\nHost: w\r\n\r\n", "403"),
        ("GET /?a=b&q=value HTTP/1.1\r\nHost: w\r\n\r\n", "205"),
    ] {
        assert_eq!(statuses(&raw(proxy.at("http"), request).await)[0], status, "{request}");
    }
    assert!(raw(proxy.at("http"), "GET /other HTTP/1.1\r\nHost: w\r\n\r\n").await.ends_with("other"));
}

#[tokio::test]
async fn paths_hosts_and_fields_are_rewritten() {
    let up = Upstream::echo().await;
    let routes = [
        "{ match: { prefix: /old/ }, route: { cluster: up, prefix_rewrite: /new/, host_rewrite_literal: inner }, request_headers_to_add: [{ header: { key: x-added, value: '1' } }], request_headers_to_remove: [x-gone], response_headers_to_add: [{ header: { key: x-back, value: '2' }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }] }",
        "{ match: { prefix: /re }, route: { cluster: up, regex_rewrite: { pattern: { regex: '^/re/([a-z]+)' }, substitution: '/\\1/x' } } }",
        "{ match: { prefix: /auto }, route: { cluster: other, auto_host_rewrite: true } }",
    ];
    let proxy = proxy(up.address, up.address, &routes).await;
    let answer = raw(proxy.at("http"), "GET /old/a?b HTTP/1.1\r\nHost: w\r\nX-Gone: 1\r\n\r\n").await;
    assert!(answer.contains("GET /new/a?b HTTP/1.1\r\nhost: inner\r\n"), "{answer}");
    assert!(
        answer.contains("x-added: 1\r\n") && !answer.contains("X-Gone") && answer.contains("x-back: 2\r\n"),
        "{answer}"
    );
    assert!(answer.contains("x-envoy-original-path: /old/a?b\r\n"), "{answer}");
    let answer = raw(proxy.at("http"), "GET /re/abc/d?q HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(answer.contains("GET /abc/x/d?q HTTP/1.1\r\n"), "{answer}");
    let answer = raw(proxy.at("http"), "GET /auto HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(answer.contains("host: other.example\r\n"), "{answer}");
}

#[tokio::test]
async fn redirects_keep_what_they_do_not_change() {
    let up = Upstream::echo().await;
    let routes = [
        "{ match: { prefix: /s }, redirect: { https_redirect: true, response_code: PERMANENT_REDIRECT } }",
        "{ match: { prefix: /p }, redirect: { host_redirect: new.example, prefix_rewrite: /q } }",
        "{ match: { prefix: /x }, redirect: { path_redirect: /y, strip_query: true } }",
    ];
    let proxy = proxy(up.address, up.address, &routes).await;
    for (target, status, location) in [
        ("/s/a?b", "308", "https://w:81/s/a?b"),
        ("/p/a?b", "301", "http://new.example/q/a?b"),
        ("/x?b", "301", "http://w:81/y"),
    ] {
        let answer = raw(proxy.at("http"), &format!("GET {target} HTTP/1.1\r\nHost: w:81\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status]);
        assert!(answer.contains(&format!("location: {location}\r\n")), "{answer}");
    }
}

#[tokio::test]
async fn weighted_clusters_share_by_weight() {
    let (up, other) =
        (Upstream::echo().await, Upstream::canned("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await);
    let routes = [
        "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [{ name: up, weight: 1 }, { name: other, weight: 3 }] } } }",
    ];
    let proxy = proxy(up.address, other.address, &routes).await;
    let answer = raw(proxy.at("http"), &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(200)).await;
    let others = answer.matches("\r\n\r\nother").count();
    assert_eq!(statuses(&answer).len(), 200);
    assert!((110..190).contains(&others), "{others} of 200");
}

#[tokio::test]
async fn an_access_log_has_a_line_for_each_request() {
    let up = Upstream::echo().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.log");
    let manager = format!(
        "access_log:\n  - name: file\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n      path: {}\n      log_format: {{ json_format: {{ code: '%RESPONSE_CODE%', path: '%REQ(:PATH)%', flags: '%RESPONSE_FLAGS%', up: '%UPSTREAM_HOST%' }} }}",
        path.display()
    );
    let proxy = Proxy::start(&bootstrap(&[up.address], &manager, "", "")).await;
    raw(proxy.at("http"), "GET /one HTTP/1.1\r\nHost: w\r\n\r\nGET\r\n\r\n").await;
    let mut lines = Vec::new();
    for _ in 0..100 {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json")).collect();
        if lines.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        lines[0],
        serde_json::json!({"code": 200, "path": "/one", "flags": "-", "up": up.address.to_string()})
    );
    assert_eq!((&lines[1]["code"], &lines[1]["flags"]), (&400.into(), &"DPE".into()));
}

#[tokio::test]
async fn each_priority_has_limits_of_its_own() {
    let upstream = Upstream::echo().await;
    let cluster =
        "circuit_breakers: { thresholds: [{ max_requests: 0 }, { priority: HIGH, max_requests: 5 }] }";
    for (route, status) in [("", "503"), ("priority: DEFAULT", "503"), ("priority: HIGH", "200")] {
        let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, cluster)).await;
        let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
        assert_eq!(statuses(&answer), [status], "{route}");
        assert!(proxy.admin("GET", "/clusters").await.contains("up::high_priority::max_requests::5"));
    }
}
