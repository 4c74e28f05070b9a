//! The HTTP filters, each as a client and an upstream see it. What is asserted is what Envoy 1.40 answers to the same
//! configuration and request, unless a comment says otherwise.

use std::net::SocketAddr;

use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{Proxy, Upstream, bootstrap, raw, statuses};

/// A bootstrap with these filters before the router and these routes, each a line of flow YAML.
pub(crate) fn filtered(up: SocketAddr, filters: &[&str], routes: &[&str]) -> String {
    let plain = bootstrap(&[up], "", "", "");
    let (start, rest) = plain.split_once("                        - match:").expect("routes");
    let (_, end) = rest.split_once("                http_filters:\n").expect("filters");
    let lines = |indent: usize, lines: &[&str]| -> String {
        lines.iter().map(|line| format!("{:indent$}- {line}\n", "")).collect()
    };
    let (routes, filters) = (lines(24, routes), lines(18, filters));
    format!("{start}{routes}                http_filters:\n{filters}{end}")
}

/// A filter as a line of flow YAML; `kind` is the folder and message of its type.
pub(crate) fn filter(name: &str, kind: &str, fields: &str) -> String {
    format!("{{ name: {name}, typed_config: {{ \"@type\": {HTTP}.{kind}, {fields} }} }}")
}

pub(crate) const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
pub(crate) const TO_UP: &str = "{ match: { prefix: / }, route: { cluster: up } }";

/// The answer to a request for `target` with these further lines.
pub(crate) async fn get(proxy: &Proxy, target: &str, fields: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nhost: w\r\n{fields}connection: close\r\n\r\n");
    raw(proxy.at("http"), &request).await
}

#[tokio::test]
async fn header_mutation_changes_both_ways_with_the_levels_of_the_route() {
    let up = Upstream::echo().await;
    let add =
        |name: &str, value: &str| format!("{{ append: {{ header: {{ key: {name}, value: {value} }} }} }}");
    let both = |value: &str| {
        let (q, r) = (add("x-q", value), add("x-r", value));
        format!("mutations: {{ request_mutations: [{q}, {{ remove: x-gone }}], response_mutations: [{r}] }}")
    };
    let base = filter("hm", "header_mutation.v3.HeaderMutation", &both("base"));
    let route = format!(
        "{{ match: {{ prefix: /own }}, route: {{ cluster: up }}, typed_per_filter_config: {{ hm: {{ \"@type\": {HTTP}.header_mutation.v3.HeaderMutationPerRoute, {} }} }} }}",
        both("route")
    );
    let direct = "{ match: { path: /direct }, direct_response: { status: 201 } }";
    let up_only = "{ match: { path: /plain }, route: { cluster: up } }";
    let proxy = Proxy::start(&filtered(up.address, &[&base], &[&route, direct, up_only])).await;
    let answer = get(&proxy, "/own", "x-gone: 1\r\n").await;
    assert!(answer.contains("x-q: base\r\nx-q: route\r\n") && !answer.contains("x-gone"), "{answer}");
    assert!(answer.contains("x-r: base\r\nx-r: route\r\n"), "{answer}");
    for (target, status) in [("/direct", "201"), ("/missing", "404"), ("/plain", "200")] {
        let answer = get(&proxy, target, "").await;
        assert_eq!(statuses(&answer), [status]);
        assert_eq!(answer.matches("x-r: base\r\n").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_filter_is_switched_off_and_on_by_hosts_routes_and_weighted_clusters() {
    let up = Upstream::echo().await;
    let change = "mutations: { response_mutations: [{ append: { header: { key: x-on, value: '1' } } }] }";
    let on = filter("active", "header_mutation.v3.HeaderMutation", change);
    let off = filter("idle", "header_mutation.v3.HeaderMutation", change).replace("x-on", "x-off");
    let off = off.replace("{ name: idle,", "{ name: idle, disabled: true,");
    let switch =
        "active: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }";
    let named =
        format!("idle: {{ \"@type\": {HTTP}.header_mutation.v3.HeaderMutationPerRoute, mutations: {{}} }}");
    let routes = [
        format!(
            "{{ match: {{ path: /off }}, route: {{ cluster: up }}, typed_per_filter_config: {{ {switch} }} }}"
        ),
        format!(
            "{{ match: {{ path: /on }}, route: {{ cluster: up }}, typed_per_filter_config: {{ {named} }} }}"
        ),
        format!(
            "{{ match: {{ path: /weighted }}, route: {{ weighted_clusters: {{ clusters: [{{ name: up, weight: 1, typed_per_filter_config: {{ {switch}, {named} }} }}] }} }} }}"
        ),
        TO_UP.to_owned(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&filtered(up.address, &[&on, &off], &routes)).await;
    for (target, is_on, is_off) in
        [("/", true, false), ("/off", false, false), ("/on", true, true), ("/weighted", false, true)]
    {
        let answer = get(&proxy, target, "").await;
        assert_eq!((answer.contains("x-on: 1"), answer.contains("x-off: 1")), (is_on, is_off), "{target}");
    }
}

#[tokio::test]
async fn cors_answers_preflights_and_marks_answers_for_origins_it_knows() {
    let up = Upstream::echo().await;
    let cors = filter("cors", "cors.v3.Cors", "");
    let policy = |fields: &str| {
        format!(
            "route: {{ cluster: up }}, typed_per_filter_config: {{ cors: {{ \"@type\": {HTTP}.cors.v3.CorsPolicy, {fields} }} }}"
        )
    };
    let full = policy(
        "allow_origin_string_match: [{ exact: 'http://a' }], allow_methods: 'GET,PUT', allow_headers: x-h, expose_headers: x-e, max_age: '10', allow_credentials: true",
    );
    let strict =
        policy("allow_origin_string_match: [{ exact: 'http://a' }], forward_not_matching_preflights: false");
    let shadow = policy(
        "allow_origin_string_match: [{ exact: '*' }], filter_enabled: { default_value: { numerator: 0 } }, shadow_enabled: { default_value: { numerator: 100 } }",
    );
    let routes = [
        format!("{{ match: {{ prefix: /c }}, {full} }}"),
        format!("{{ match: {{ prefix: /strict }}, {strict} }}"),
        format!("{{ match: {{ prefix: /shadow }}, {shadow} }}"),
        TO_UP.to_owned(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&filtered(up.address, &[&cors], &routes)).await;
    let preflight = |target: &str, origin: &str| {
        format!(
            "OPTIONS {target} HTTP/1.1\r\nhost: w\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\nconnection: close\r\n\r\n"
        )
    };
    let answer = raw(proxy.at("http"), &preflight("/c", "http://a")).await;
    for line in [
        "access-control-allow-origin: http://a",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: GET,PUT",
        "access-control-allow-headers: x-h",
        "access-control-max-age: 10",
        "access-control-expose-headers: x-e",
        "content-length: 0",
    ] {
        assert_eq!(answer.matches(&format!("{line}\r\n")).count(), 1, "{line} in {answer}");
    }
    let answer = raw(proxy.at("http"), &preflight("/c", "http://b")).await;
    assert!(answer.contains("OPTIONS /c") && !answer.contains("access-control-allow"), "{answer}");
    let answer = raw(proxy.at("http"), &preflight("/strict", "http://b")).await;
    assert!(statuses(&answer) == ["200"] && !answer.contains("OPTIONS"), "{answer}");
    let answer = get(&proxy, "/c", "origin: http://a\r\n").await;
    assert!(answer.contains("access-control-allow-origin: http://a\r\n"), "{answer}");
    assert!(answer.contains("access-control-expose-headers: x-e\r\n"), "{answer}");
    for (target, origin) in [("/c", "http://b"), ("/shadow", "http://a"), ("/none", "http://a")] {
        let answer = get(&proxy, target, &format!("origin: {origin}\r\n")).await;
        assert!(!answer.contains("access-control-allow-origin"), "{target}: {answer}");
    }
    assert_eq!(proxy.metric("envoy_http_cors_origin_valid").await, 3.0);
    assert_eq!(proxy.metric("envoy_http_cors_origin_invalid").await, 3.0);
}

#[tokio::test]
async fn faults_delay_and_abort_those_they_are_for() {
    let up = Upstream::echo().await;
    let fault = filter(
        "fault",
        "fault.v3.HTTPFault",
        "delay: { fixed_delay: 0.2s, percentage: { numerator: 100 } }, abort: { http_status: 418, percentage: { numerator: 100 } }, headers: [{ name: x-fault, present_match: true }]",
    );
    let own = |match_: &str, fields: &str| {
        format!(
            "{{ match: {{ prefix: {match_} }}, route: {{ cluster: up }}, typed_per_filter_config: {{ fault: {{ \"@type\": {HTTP}.fault.v3.HTTPFault, {fields} }} }} }}"
        )
    };
    let grpc = own("/grpc", "abort: { grpc_status: 5, percentage: { numerator: 100 } }");
    let asked = own("/asked", "abort: { header_abort: {}, percentage: { numerator: 100 } }");
    let never = own("/never", "abort: { http_status: 500, percentage: { numerator: 0 } }");
    let proxy = Proxy::start(&filtered(up.address, &[&fault], &[&grpc, &asked, &never, TO_UP])).await;
    let start = std::time::Instant::now();
    let answer = get(&proxy, "/", "x-fault: 1\r\n").await;
    assert!(start.elapsed() >= std::time::Duration::from_millis(200));
    assert!(statuses(&answer) == ["418"] && answer.ends_with("fault filter abort"), "{answer}");
    for (target, fields, status) in [
        ("/", "", "200"),
        ("/never", "x-fault: 1\r\n", "200"),
        ("/asked", "", "200"),
        ("/asked", "x-envoy-fault-abort-request: 429\r\n", "429"),
        (
            "/asked",
            "x-envoy-fault-abort-request: 429\r\nx-envoy-fault-abort-request-percentage: 0\r\n",
            "200",
        ),
    ] {
        assert_eq!(statuses(&get(&proxy, target, fields).await), [status], "{target} {fields}");
    }
    let answer = get(&proxy, "/grpc", "content-type: application/grpc\r\n").await;
    assert!(statuses(&answer) == ["200"] && answer.contains("grpc-status: 5\r\n"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_fault_delays_injected").await, 1.0);
    assert_eq!(proxy.metric("envoy_http_fault_aborts_injected").await, 3.0);
}

const BUCKET: &str = "filter_enabled: { runtime_key: k, default_value: { numerator: 100 } }, filter_enforced: { default_value: { numerator: 100 } }";

#[tokio::test]
async fn a_local_rate_limit_lets_as_many_through_as_its_bucket_holds() {
    let up = Upstream::echo().await;
    let limit = filter(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        &format!(
            "stat_prefix: base, token_bucket: {{ max_tokens: 3, fill_interval: 1000s }}, {BUCKET}, response_headers_to_add: [{{ header: {{ key: x-limited, value: 'yes' }} }}]"
        ),
    );
    let watched = format!(
        "{{ match: {{ prefix: /watched }}, route: {{ cluster: up }}, typed_per_filter_config: {{ limit: {{ \"@type\": {HTTP}.local_ratelimit.v3.LocalRateLimit, stat_prefix: own, token_bucket: {{ max_tokens: 1, fill_interval: 1000s }}, filter_enabled: {{ default_value: {{ numerator: 100 }} }}, request_headers_to_add_when_not_enforced: [{{ header: {{ key: x-over, value: '1' }} }}] }} }} }}"
    );
    let proxy = Proxy::start(&filtered(up.address, &[&limit], &[&watched, TO_UP])).await;
    for expected in ["200", "200", "200", "429", "429"] {
        let answer = get(&proxy, "/", "").await;
        assert_eq!(statuses(&answer), [expected]);
        assert_eq!(answer.contains("x-limited: yes\r\n"), expected == "429", "{answer}");
    }
    let answer = get(&proxy, "/", "content-type: application/grpc\r\n").await;
    assert!(answer.contains("grpc-status: 14\r\ngrpc-message: local_rate_limited\r\n"), "{answer}");
    assert!(!get(&proxy, "/watched", "").await.contains("x-over"));
    assert!(get(&proxy, "/watched", "").await.contains("x-over: 1\r\n"));
    for (name, value) in [("enabled", 8.0), ("ok", 4.0), ("rate_limited", 4.0), ("enforced", 3.0)] {
        assert_eq!(proxy.metric(&format!("envoy_http_local_rate_limit_{name}")).await, value, "{name}");
    }
}

#[tokio::test]
async fn a_local_rate_limit_has_buckets_for_requests_that_the_route_describes() {
    let up = Upstream::echo().await;
    let limit = filter(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        &format!(
            "stat_prefix: base, token_bucket: {{ max_tokens: 100, fill_interval: 1000s }}, {BUCKET}, descriptors: [{{ entries: [{{ key: user, value: ann }}], token_bucket: {{ max_tokens: 1, fill_interval: 1000s }} }}]"
        ),
    );
    let route = "{ match: { prefix: / }, route: { cluster: up, rate_limits: [{ actions: [{ request_headers: { header_name: x-user, descriptor_key: user } }] }] } }";
    let proxy = Proxy::start(&filtered(up.address, &[&limit], &[route])).await;
    for (user, expected) in [("ann", "200"), ("ann", "429"), ("bob", "200"), ("bob", "200")] {
        assert_eq!(statuses(&get(&proxy, "/", &format!("x-user: {user}\r\n")).await), [expected], "{user}");
    }
    assert_eq!(statuses(&get(&proxy, "/", "").await), ["200"]);
}

#[tokio::test]
async fn rbac_denies_by_path_header_and_address_and_counts_what_shadow_rules_would() {
    let up = Upstream::echo().await;
    let rbac = filter(
        "rbac",
        "rbac.v3.RBAC",
        "rules: { action: DENY, policies: { 'p b': { permissions: [{ and_rules: { rules: [{ url_path: { path: { prefix: /no } } }, { not_rule: { header: { name: x-let, present_match: true } } }] } }], principals: [{ any: true }] } } }, shadow_rules: { action: ALLOW, policies: { q: { permissions: [{ header: { name: x-a, present_match: true } }], principals: [{ any: true }] } } }",
    );
    let own = |path: &str, rules: &str| {
        format!(
            "{{ match: {{ prefix: {path} }}, route: {{ cluster: up }}, typed_per_filter_config: {{ rbac: {{ \"@type\": {HTTP}.rbac.v3.RBACPerRoute, {rules} }} }} }}"
        )
    };
    let allow = |principal: &str| {
        format!(
            "rbac: {{ rules: {{ action: ALLOW, policies: {{ z: {{ permissions: [{{ any: true }}], principals: [{principal}] }} }} }} }}"
        )
    };
    let routes = [
        own("/far", &allow("{ source_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } }")),
        own("/near", &allow("{ source_ip: { address_prefix: 127.0.0.0, prefix_len: 8 } }")),
        own("/mesh", &allow("{ authenticated: {} }")),
        own("/now", ""),
        TO_UP.to_owned(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let manager = format!(
        "access_log:\n  - name: file\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n      path: {}\n      log_format: {{ text_format_source: {{ inline_string: \"%RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%\\n\" }} }}\n",
        log.display()
    );
    let manager: String = manager.lines().map(|line| format!("                {line}\n")).collect();
    let text = filtered(up.address, &[&rbac], &routes)
        .replace("                route_config:", &format!("{manager}                route_config:"));
    let proxy = Proxy::start(&text).await;
    for (target, fields, status) in [
        ("/no", "", "403"),
        ("/no", "x-let: 1\r\n", "200"),
        ("/yes", "x-a: 1\r\n", "200"),
        ("/far", "", "403"),
        ("/near", "", "200"),
        ("/mesh", "", "403"),
        ("/now", "", "200"),
    ] {
        let answer = get(&proxy, target, fields).await;
        assert_eq!(statuses(&answer), [status], "{target}");
        assert_eq!(answer.ends_with("RBAC: access denied"), status == "403", "{answer}");
    }
    for (name, value) in [("allowed", 3.0), ("denied", 3.0), ("shadow_allowed", 1.0), ("shadow_denied", 2.0)]
    {
        assert_eq!(proxy.metric(&format!("envoy_http_rbac_{name}")).await, value, "{name}");
    }
    let mut text = String::new();
    for _ in 0..250 {
        text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() == 7 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut denied: Vec<&str> = text.lines().filter(|line| line.contains("rbac")).collect();
    // Two threads write, and nobody puts their lines in order.
    denied.sort_unstable();
    let none = "rbac_access_denied_matched_policy[none] -";
    assert_eq!(denied, [none, none, "rbac_access_denied_matched_policy[p_b] -"]);
}

#[tokio::test]
async fn the_health_check_filter_answers_for_the_proxy_until_it_is_told_to_fail() {
    let up = Upstream::echo().await;
    let check = filter(
        "hc",
        "health_check.v3.HealthCheck",
        "pass_through_mode: false, headers: [{ name: ':path', string_match: { exact: /healthz } }]",
    );
    let proxy = Proxy::start(&filtered(up.address, &[&check], &[TO_UP])).await;
    let answer = get(&proxy, "/healthz", "").await;
    assert!(statuses(&answer) == ["200"] && !answer.contains("GET"), "{answer}");
    assert!(get(&proxy, "/other", "").await.contains("GET /other"));
    proxy.admin("POST", "/healthcheck/fail").await;
    let failed = get(&proxy, "/healthz", "").await;
    assert_eq!(statuses(&failed), ["503"]);
    let other = raw(proxy.at("http"), "GET /other HTTP/1.1\r\nhost: w\r\n\r\n").await;
    for answer in [failed, other] {
        assert!(answer.contains("x-envoy-immediate-health-check-fail: true\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    assert_eq!(proxy.metric("envoy_http_health_check_failed").await, 1.0);
}

#[tokio::test]
async fn a_request_that_comes_back_too_often_ends() {
    let up = Upstream::echo().await;
    let cdn = filter("cdn", "cdn_loop.v3.CdnLoopConfig", "cdn_id: us, max_allowed_occurrences: 1");
    let proxy = Proxy::start(&filtered(up.address, &[&cdn], &[TO_UP])).await;
    assert!(get(&proxy, "/", "").await.contains("cdn-loop: us\r\n"));
    let answer = get(&proxy, "/", "cdn-loop: other, us;v=1\r\ncdn-loop: US\r\n").await;
    assert!(answer.contains("cdn-loop: other, us;v=1,US,us\r\n"), "{answer}");
    for (fields, status) in [("cdn-loop: us,us\r\n", "502"), ("cdn-loop: a b\r\n", "400")] {
        assert_eq!(statuses(&get(&proxy, "/", fields).await), [status], "{fields}");
    }
}

/// The bootstrap, keys and tokens are those that the differential tests give to Envoy too.
#[tokio::test]
async fn tokens_are_asked_for_checked_and_counted() {
    let up = Upstream::echo().await;
    let corpus = include_str!("../../../tests/corpus/policies/jwt.yaml");
    let text = corpus.replace("port_value: 1001", &format!("port_value: {}", up.address.port()));
    let proxy = Proxy::start(&text.replace("name: front", "name: http")).await;
    let requests: Vec<&str> = corpus.lines().filter_map(|line| line.strip_prefix("# GET /need | ")).collect();
    let good = requests[0];
    let answer = get(&proxy, "/need", &format!("{good}\r\nx-role: forged\r\n")).await;
    assert!(answer.contains("x-role: admin\r\n") && !answer.contains("forged"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("authorization"), "{answer}");
    let answer = get(&proxy, "/need", "").await;
    assert!(statuses(&answer) == ["401"] && answer.ends_with("Jwt is missing"), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer realm=\"http://w/need\"\r\n"), "{answer}");
    let broken = good.replace("authorization: Bearer ", "authorization: Bearer x");
    assert_eq!(statuses(&get(&proxy, "/need", &format!("{broken}\r\n")).await), ["401"]);
    assert_eq!(statuses(&get(&proxy, "/free", "").await), ["200"]);
    assert_eq!(proxy.metric("envoy_http_jwt_authn_allowed").await, 2.0);
    assert_eq!(proxy.metric("envoy_http_jwt_authn_denied").await, 2.0);
}

#[test]
fn what_a_filter_does_not_support_is_refused_by_its_path() {
    let up = "127.0.0.1:1".parse().expect("an address");
    let route_of = |message: &str| {
        format!(
            "{{ match: {{ prefix: / }}, route: {{ cluster: up }}, typed_per_filter_config: {{ f: {message} }} }}"
        )
    };
    let fault = filter("f", "fault.v3.HTTPFault", "max_active_faults: 3");
    let bucket = filter(
        "f",
        "local_ratelimit.v3.LocalRateLimit",
        "stat_prefix: p, token_bucket: { max_tokens: 1, fill_interval: 0.01s }",
    );
    let principal = filter(
        "f",
        "rbac.v3.RBAC",
        "rules: { policies: { p: { permissions: [{ any: true }], principals: [{ filter_state: { key: a, string_match: { exact: b } } }] } } }",
    );
    let cors = filter("f", "cors.v3.Cors", "");
    let lua = filter("f", "lua.v3.Lua", "");
    let jwt = filter("f", "jwt_authn.v3.JwtAuthentication", "providers: { p: { from_cookies: [a] } }");
    let no_keys = filter(
        "f",
        "jwt_authn.v3.JwtAuthentication",
        "providers: { p: { local_jwks: { inline_string: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}' } } }",
    );
    let no_settings = route_of("{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig }");
    let wrong = route_of("{ \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration }");
    for (filters, route, path) in [
        (vec![&fault], TO_UP, "http_filters[0].typed_config.max_active_faults: is not supported"),
        (
            vec![&bucket],
            TO_UP,
            "http_filters[0].typed_config.token_bucket.fill_interval: must be at least 0.05s",
        ),
        (
            vec![&principal],
            TO_UP,
            "http_filters[0].typed_config.rules.policies[\"p\"].principals[0].filter_state: is not supported",
        ),
        (vec![&jwt], TO_UP, "typed_config.providers[\"p\"].from_cookies: is not supported"),
        (vec![&no_keys], TO_UP, "typed_config.providers[\"p\"].local_jwks: has no key that can be used"),
        (vec![&cors, &cors], TO_UP, "http_filters[1].name: \"f\" is in more than one place"),
        (vec![&lua], TO_UP, "http_filters[0].typed_config: unknown type"),
        (vec![&cors], &no_settings, "routes[0].typed_per_filter_config[\"f\"].config: is required"),
        (vec![&cors], &wrong, "routes[0].typed_per_filter_config[\"f\"].@type: envoy.config"),
    ] {
        let filters: Vec<&str> = filters.into_iter().map(String::as_str).collect();
        let text = filtered(up, &filters, &[route]);
        let error = match parse_bootstrap(&text, Format::Yaml) {
            Err(error) => error.to_string(),
            Ok(bootstrap) => validate(bootstrap).expect_err(path).to_string(),
        };
        assert!(error.contains(path), "{error} does not name {path}");
    }
}
