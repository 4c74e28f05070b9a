//! Requests that a service counts for everybody. What is asserted is what Envoy 1.40 does with the same configuration and
//! answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use weft_xds::pb::{
    envoy::{
        config::core::v3::HeaderValue,
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        },
    },
    google::protobuf::Duration,
};

use crate::{
    filters::{filter, filtered, get},
    support::{
        Proxy, Upstream,
        grpc::{self, HTTP2, Said, cluster, with_clusters},
        statuses,
    },
};

const KIND: &str = "ratelimit.v3.RateLimit";
const SERVICE: &str = "domain: d, rate_limit_service: { transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: rls } } }";

/// A service that decides by the value of the first pair, and what it was asked last.
async fn service() -> (SocketAddr, Arc<Mutex<RateLimitRequest>>) {
    let asked = Arc::new(Mutex::new(RateLimitRequest::default()));
    let kept = Arc::clone(&asked);
    let address = grpc::serve(move |call, request: RateLimitRequest| {
        assert_eq!(call.uri.path(), "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
        let value = request
            .descriptors
            .first()
            .and_then(|descriptor| descriptor.entries.first())
            .map_or_else(String::new, |entry| entry.value.clone());
        *kept.lock().expect("a lock") = request;
        let field = |key: &str, value: &str| HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        };
        let response = RateLimitResponse {
            overall_code: Code::Ok.into(),
            statuses: vec![DescriptorStatus {
                code: Code::Ok.into(),
                current_limit: Some(RateLimit {
                    name: "per-min".into(),
                    requests_per_unit: 10,
                    unit: Unit::Minute.into(),
                }),
                limit_remaining: 3,
                duration_until_reset: Some(Duration { seconds: 7, nanos: 0 }),
                ..DescriptorStatus::default()
            }],
            response_headers_to_add: vec![field("x-r", "1"), field("content-type", "text/x")],
            request_headers_to_add: vec![field("x-q", "1")],
            ..RateLimitResponse::default()
        };
        match value.as_str() {
            "over" => grpc::message(&RateLimitResponse {
                overall_code: Code::OverLimit.into(),
                raw_body: b"slow down".to_vec(),
                ..response
            }),
            "unknown" => grpc::message(&RateLimitResponse::default()),
            "fail" => Said::Status(14),
            "hang" => Said::Nothing,
            _ => grpc::message(&response),
        }
    })
    .await;
    (address, asked)
}

fn key(value: &str) -> String {
    format!("{{ generic_key: {{ descriptor_value: {value} }} }}")
}

fn route(path: &str, actions: &str) -> String {
    format!(
        "{{ match: {{ path: {path} }}, route: {{ cluster: up, rate_limits: [{{ actions: [{actions}] }}] }} }}"
    )
}

async fn proxy(fields: &str, rls: SocketAddr, routes: &[&str]) -> (Proxy, Upstream) {
    let up = Upstream::echo().await;
    let text = filtered(up.address, &[&filter("rl", KIND, &format!("{SERVICE}, {fields}"))], routes);
    let text = format!("node: {{ id: one, cluster: me }}\n{text}");
    (Proxy::start(&with_clusters(&text, &[cluster("rls", rls, HTTP2)])).await, up)
}

/// What was asked, as text.
fn pairs(asked: &Mutex<RateLimitRequest>) -> Vec<String> {
    let asked = asked.lock().expect("a lock");
    let descriptors = asked.descriptors.iter().map(|descriptor| {
        let pairs = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value));
        pairs.collect::<Vec<_>>().join(" ")
    });
    descriptors.collect()
}

#[tokio::test]
async fn a_service_is_asked_with_what_the_route_describes_and_obeyed() {
    let (rls, asked) = service().await;
    let all = [
        key("g"),
        "{ request_headers: { header_name: x-u, descriptor_key: u } }".into(),
        "{ request_headers: { header_name: x-no, descriptor_key: nope, skip_if_absent: true } }".into(),
        "{ source_cluster: {} }".into(),
        "{ destination_cluster: {} }".into(),
        "{ remote_address: {} }".into(),
        "{ masked_remote_address: { v4_prefix_mask_len: 9 } }".into(),
        "{ masked_remote_address: {} }".into(),
        "{ query_parameters: { query_parameter_name: a, descriptor_key: qa } }".into(),
        "{ query_parameter_value_match: { descriptor_value: q, query_parameters: [{ name: a }] } }".into(),
        "{ header_value_match: { descriptor_value: h, expect_match: false, headers: [{ name: x-no, present_match: true }] } }".into(),
    ]
    .join(", ");
    let two = format!(
        "{{ match: {{ path: /two }}, route: {{ cluster: up, rate_limits: [{{ actions: [{}] }}, {{ actions: [{}] }}, {{ stage: 1, actions: [{}] }}, {{ actions: [{{ request_headers: {{ header_name: x-no, descriptor_key: nope }} }}] }}] }} }}",
        key("a"),
        key("b"),
        key("c"),
    );
    let routes = [
        route("/all", &all),
        two,
        route("/over", &key("over")),
        route("/unknown", &key("unknown")),
        route("/fail", &key("fail")),
        route("/hang", &key("hang")),
        "{ match: { path: /none }, route: { cluster: up } }".into(),
        "{ match: { path: /direct }, direct_response: { status: 201 } }".into(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let (proxy, _up) = proxy("timeout: 2s", rls, &routes).await;

    let answer = get(&proxy, "/all?a=7", "x-u: ann\r\n").await;
    assert_eq!(
        pairs(&asked),
        [
            "generic_key=g u=ann source_cluster=me destination_cluster=up remote_address=127.0.0.1 masked_remote_address=127.0.0.0/9 masked_remote_address=127.0.0.1/32 qa=7 query_match=q header_match=h"
        ]
    );
    assert_eq!(asked.lock().expect("a lock").domain, "d");
    assert!(answer.contains("x-q: 1\r\n") && answer.contains("x-r: 1\r\n"), "{answer}");
    assert!(!answer.contains("x-ratelimit"), "{answer}");
    get(&proxy, "/two", "").await;
    assert_eq!(pairs(&asked), ["generic_key=a", "generic_key=b"]);

    let answer = get(&proxy, "/over", "").await;
    assert_eq!(statuses(&answer), ["429"]);
    for line in ["x-r: 1", "content-type: text/x", "x-envoy-ratelimited: true"] {
        assert_eq!(answer.matches(&format!("{line}\r\n")).count(), 1, "{line} in {answer}");
    }
    assert!(answer.ends_with("\r\n\r\nslow down") && !answer.contains("text/plain"), "{answer}");
    let answer = get(&proxy, "/over", "content-type: application/grpc\r\n").await;
    assert!(answer.contains("grpc-status: 14\r\n"), "{answer}");
    for target in ["/unknown", "/fail", "/hang", "/none"] {
        assert_eq!(statuses(&get(&proxy, target, "").await), ["200"], "{target}");
    }
    assert_eq!(statuses(&get(&proxy, "/direct", "").await), ["201"]);
    for (name, value) in [("ok", 2.0), ("over_limit", 2.0), ("error", 3.0), ("failure_mode_allowed", 3.0)] {
        assert_eq!(proxy.metric(&format!("envoy_cluster_ratelimit_{name}")).await, value, "{name}");
    }
}

#[tokio::test]
async fn clients_are_told_what_is_left_and_failures_may_be_fatal() {
    let (rls, _) = service().await;
    let fields = "timeout: 20s, enable_x_ratelimit_headers: DRAFT_VERSION_03, rate_limited_as_resource_exhausted: true, rate_limited_status: { code: ServiceUnavailable }, response_headers_to_add: [{ header: { key: x-c, value: v } }], disable_x_envoy_ratelimited_header: true, failure_mode_deny: true, status_on_error: { code: BadGateway }, request_type: external";
    let routes = [route("/ok", &key("ok")), route("/over", &key("over")), route("/fail", &key("fail"))];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let (proxy, _up) = proxy(fields, rls, &routes).await;
    let told = "x-ratelimit-limit: 10, 10;w=60;name=\"per-min\"\r\nx-ratelimit-remaining: 3\r\nx-ratelimit-reset: 7\r\n";
    let answer = get(&proxy, "/ok", "").await;
    assert!(answer.contains(told) && !answer.contains("x-c: v"), "{answer}");
    let answer = get(&proxy, "/over", "").await;
    assert_eq!(statuses(&answer), ["503"]);
    assert!(answer.contains(told) && answer.contains("x-c: v\r\n"), "{answer}");
    assert!(!answer.contains("x-envoy-ratelimited"), "{answer}");
    let answer = get(&proxy, "/over", "content-type: application/grpc\r\n").await;
    assert!(answer.contains("grpc-status: 8\r\n"), "{answer}");
    assert_eq!(statuses(&get(&proxy, "/fail", "").await), ["502"]);
    // One private address and no more: a request from inside, which is not meant.
    assert_eq!(statuses(&get(&proxy, "/over", "x-forwarded-for: 10.0.0.1\r\n").await), ["200"]);
    assert_eq!(statuses(&get(&proxy, "/over", "x-forwarded-for: 10.0.0.1, 10.0.0.2\r\n").await), ["503"]);
}

#[tokio::test]
async fn hosts_and_routes_say_which_limits_count() {
    let (rls, asked) = service().await;
    let own = |path: &str, settings: &str| {
        format!(
            "{{ match: {{ path: {path} }}, route: {{ cluster: up, rate_limits: [{{ actions: [{}] }}] }}, typed_per_filter_config: {{ rl: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute, {settings} }} }} }}",
            key("route")
        )
    };
    let routes = [
        own("/include", "vh_rate_limits: INCLUDE, domain: other"),
        own("/own", &format!("rate_limits: [{{ actions: [{}] }}]", key("own"))),
        route("/route", &key("route")),
        "{ match: { path: /host }, route: { cluster: up } }".into(),
        "{ match: { path: /ignore }, route: { cluster: up }, typed_per_filter_config: { rl: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute, vh_rate_limits: IGNORE } } }".into(),
    ];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let up = Upstream::echo().await;
    let text = filtered(up.address, &[&filter("rl", KIND, &format!("{SERVICE}, timeout: 20s"))], &routes)
        .replacen(
            "domains: [\"*\"]\n",
            &format!(
                "domains: [\"*\"]\n                      rate_limits: [{{ actions: [{}] }}]\n",
                key("host")
            ),
            1,
        );
    let proxy = Proxy::start(&with_clusters(&text, &[cluster("rls", rls, HTTP2)])).await;
    for (target, wanted, domain) in [
        ("/include", vec!["generic_key=route", "generic_key=host"], "other"),
        ("/own", vec!["generic_key=own"], "d"),
        ("/route", vec!["generic_key=route"], "d"),
        ("/host", vec!["generic_key=host"], "d"),
        ("/ignore", vec![], ""),
    ] {
        *asked.lock().expect("a lock") = RateLimitRequest::default();
        get(&proxy, target, "").await;
        assert_eq!(pairs(&asked), wanted, "{target}");
        assert_eq!(asked.lock().expect("a lock").domain, domain, "{target}");
    }
}
