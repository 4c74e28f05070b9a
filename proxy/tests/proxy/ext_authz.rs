//! Requests that another service must allow, over gRPC and HTTP. What is asserted is what Envoy 1.40 does with the same
//! configuration and answers, unless a comment says otherwise.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use weft_proxy::server::validate;
use weft_xds::{
    json::{Format, parse_bootstrap},
    pb::{
        envoy::{
            config::core::v3::{
                HeaderValue, HeaderValueOption, address::Address, socket_address::PortSpecifier,
            },
            service::auth::v3::{
                AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
                check_response::HttpResponse,
            },
            r#type::v3::HttpStatus,
        },
        google::{protobuf::BoolValue, rpc::Status},
    },
};

use crate::{
    filters::{TO_UP, filter, filtered, get},
    support::{
        Proxy, Upstream,
        grpc::{self, HTTP2, Said, cluster, with_clusters},
        raw, statuses, wait_for_metric,
    },
};

const EXT: &str = "ext_authz.v3.ExtAuthz";
const ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
const GRPC: &str =
    "transport_api_version: V3, grpc_service: { timeout: 2s, envoy_grpc: { cluster_name: auth } }";

fn option(name: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    #[expect(deprecated, reason = "services still send it")]
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value: value.into(), ..HeaderValue::default() }),
        append: append.map(|value| BoolValue { value }),
        ..HeaderValueOption::default()
    }
}

fn ok(ok: OkHttpResponse) -> Said {
    let http_response = Some(HttpResponse::OkResponse(ok));
    grpc::message(&CheckResponse { http_response, ..CheckResponse::default() })
}

fn denied(http_response: Option<HttpResponse>) -> Said {
    let status = Some(Status { code: 7, ..Status::default() });
    grpc::message(&CheckResponse { status, http_response, ..CheckResponse::default() })
}

/// A service that decides by the path, and what it was told last.
async fn service() -> (SocketAddr, Arc<Mutex<AttributeContext>>) {
    let told = Arc::new(Mutex::new(AttributeContext::default()));
    let kept = Arc::clone(&told);
    let address = grpc::serve(move |call, request: CheckRequest| {
        assert_eq!(call.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
        assert_eq!(call.headers["grpc-timeout"], "2000m");
        let attributes = request.attributes.expect("attributes");
        let path = attributes.request.clone().expect("a request").http.expect("of HTTP").path;
        *kept.lock().expect("a lock") = attributes;
        let status = |code| Some(HttpStatus { code });
        match path.split(['?', '/']).nth(1).unwrap_or_default() {
            "change" => ok(OkHttpResponse {
                headers: vec![
                    option("x-a", "set", None),
                    option("x-b", "appended", Some(true)),
                    option("x-none", "nowhere", Some(true)),
                    option(":path", "/other", None),
                ],
                headers_to_remove: vec!["x-gone".into(), ":method".into()],
                response_headers_to_add: vec![option("x-r", "1", None), option("x-r", "2", None)],
                ..OkHttpResponse::default()
            }),
            "split" => ok(OkHttpResponse {
                headers: vec![option("x-a", "1\r\nx-evil: 1", None)],
                ..OkHttpResponse::default()
            }),
            "no" => denied(None),
            "login" => denied(Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: status(401),
                headers: vec![
                    option("x-d", "1", None),
                    option("x-d", "2", None),
                    option("content-type", "text/html", None),
                ],
                body: "no \"way\"\u{e9}".into(),
            }))),
            "broken" => denied(Some(HttpResponse::ErrorResponse(DeniedHttpResponse {
                status: status(418),
                headers: vec![option("x-d", "1", None)],
                body: "broken".into(),
            }))),
            "fail" => Said::Status(14),
            "hang" => Said::Nothing,
            _ => ok(OkHttpResponse::default()),
        }
    })
    .await;
    (address, told)
}

#[tokio::test]
async fn a_grpc_service_allows_changes_and_denies_and_its_failure_is_a_denial() {
    let (up, (auth, told)) = (Upstream::echo().await, service().await);
    let ext =
        filter("authz", EXT, &format!("{GRPC}, disallowed_headers: {{ patterns: [{{ exact: x-secret }}] }}"));
    let own = |settings: &str| {
        format!("typed_per_filter_config: {{ authz: {{ \"@type\": {ROUTE}, {settings} }} }}")
    };
    let off =
        format!("{{ match: {{ prefix: /no/off }}, route: {{ cluster: up }}, {} }}", own("disabled: true"));
    let ctx = format!(
        "{{ match: {{ path: /ctx }}, route: {{ cluster: up }}, {} }}",
        own("check_settings: { context_extensions: { a: route } }")
    );
    let direct = "{ match: { path: /no/direct }, direct_response: { status: 201 } }";
    let text = filtered(
        up.address,
        &[&ext],
        &[&off, &ctx, direct, "{ match: { prefix: / }, route: { cluster: up } }"],
    );
    let proxy = Proxy::start(&with_clusters(&text, &[cluster("auth", auth, HTTP2)])).await;

    let answer = get(&proxy, "/ctx?q=1", "x-a: 1\r\nX-A: 2\r\nx-secret: s\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    {
        let told = told.lock().expect("a lock").clone();
        let http = told.request.expect("a request").http.expect("of HTTP");
        assert_eq!((http.method.as_str(), http.host.as_str(), http.path.as_str()), ("GET", "w", "/ctx?q=1"));
        assert_eq!((http.scheme.as_str(), http.protocol.as_str()), ("http", "HTTP/1.1"));
        for (name, value) in [("x-a", "1,2"), (":path", "/ctx?q=1"), (":authority", "w"), (":method", "GET")]
        {
            assert_eq!(http.headers.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!http.headers.contains_key("x-secret") && !http.headers.contains_key("host"));
        assert_eq!(told.context_extensions.get("a").map(String::as_str), Some("route"));
        let destination = told.destination.expect("a destination").address.expect("an address").address;
        let Some(Address::SocketAddress(socket)) = destination else { panic!("a socket address") };
        let port = PortSpecifier::PortValue(u32::from(proxy.at("http").port()));
        assert_eq!((socket.address.as_str(), socket.port_specifier), ("127.0.0.1", Some(port)));
    }

    let answer = get(&proxy, "/change", "x-a: orig\r\nx-b: orig\r\nx-gone: 1\r\n").await;
    for line in ["GET /other HTTP/1.1", "x-a: set", "x-b: orig,appended", "x-r: 1", "x-r: 2"] {
        assert_eq!(answer.matches(&format!("{line}\r\n")).count(), 1, "{line} in {answer}");
    }
    assert!(!answer.contains("x-gone") && !answer.contains("x-none"), "{answer}");

    for (target, status) in [
        ("/no", "403"),
        ("/no/direct", "403"),
        ("/no/off", "200"),
        ("/login", "401"),
        ("/broken", "418"),
        ("/fail", "403"),
        ("/hang", "403"),
        // Envoy lets what it cannot send run into its codec, which is a 503 by chance.
        ("/split", "500"),
    ] {
        assert_eq!(statuses(&get(&proxy, target, "").await), [status], "{target}");
    }
    let answer = get(&proxy, "/login", "").await;
    assert!(answer.contains("x-d: 1\r\nx-d: 2\r\n") && answer.ends_with("no \"way\"\u{e9}"), "{answer}");
    assert_eq!(answer.matches("content-type:").count(), 1, "{answer}");
    let answer = get(&proxy, "/login", "content-type: application/grpc\r\n").await;
    assert!(answer.contains("grpc-status: 16\r\ngrpc-message: no \"way\"%C3%A9\r\n"), "{answer}");
    for (name, value) in [("ok", 2.0), ("denied", 5.0), ("error", 3.0), ("invalid", 1.0)] {
        assert_eq!(proxy.metric(&format!("envoy_http_ext_authz_{name}")).await, value, "{name}");
    }
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_timeout").await, 1.0);
}

#[tokio::test]
async fn requests_pass_when_the_service_cannot_be_asked_if_that_is_wanted() {
    let (up, (auth, _)) = (Upstream::echo().await, service().await);
    let lenient = filter(
        "authz",
        EXT,
        &format!("{GRPC}, failure_mode_allow: true, failure_mode_allow_header_add: true"),
    );
    let proxy = Proxy::start(&with_clusters(
        &filtered(up.address, &[&lenient], &[TO_UP]),
        &[cluster("auth", auth, HTTP2)],
    ))
    .await;
    let answer = get(&proxy, "/fail", "").await;
    assert!(answer.contains("x-envoy-auth-failure-mode-allowed: true"), "{answer}");
    assert_eq!(statuses(&get(&proxy, "/no", "").await), ["403"]);
    assert_eq!(proxy.metric("envoy_http_ext_authz_failure_mode_allowed").await, 1.0);

    // As in Envoy, a cluster that is not there is a service that does not answer, not a mistake.
    let strict = filter("authz", EXT, &format!("{GRPC}, status_on_error: {{ code: BadGateway }}"));
    let proxy = Proxy::start(&filtered(up.address, &[&strict], &[TO_UP])).await;
    assert_eq!(statuses(&get(&proxy, "/", "").await), ["502"]);
    let closed = filter(
        "authz",
        EXT,
        &format!(
            "{GRPC}, filter_enabled: {{ default_value: {{ numerator: 0 }} }}, deny_at_disable: {{ default_value: true, runtime_key: k }}"
        ),
    );
    let proxy = Proxy::start(&filtered(up.address, &[&closed], &[TO_UP])).await;
    assert_eq!(statuses(&get(&proxy, "/", "").await), ["403"]);
    assert_eq!(proxy.metric("envoy_http_ext_authz_disabled").await, 1.0);
}

#[tokio::test]
async fn an_http_service_sees_the_request_and_says_what_goes_on() {
    let up = Upstream::echo().await;
    let seen = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&seen);
    let auth = Upstream::scripted(move |mut stream, _| {
        let kept = Arc::clone(&kept);
        async move {
            use tokio::io::AsyncWriteExt as _;
            let mut buffer = Vec::new();
            while let Some(request) = crate::support::read_request(&mut stream, &mut buffer).await {
                let request = String::from_utf8_lossy(&request).into_owned();
                let answer = match request.split(' ').nth(1) {
                    Some("/auth/login") => {
                        "HTTP/1.1 302 Found\r\nlocation: /l\r\nset-cookie: a=b\r\nx-c: c\r\ncontent-length: 2\r\n\r\ngo"
                    }
                    Some("/auth/fail") => "HTTP/1.1 503 Nope\r\ncontent-length: 0\r\n\r\n",
                    _ => {
                        "HTTP/1.1 200 OK\r\nx-a: new\r\nx-ap: p\r\nx-cs: cs\r\nx-other: 1\r\nx-envoy-auth-headers-to-remove: authorization, x-z\r\ncontent-length: 0\r\n\r\n"
                    }
                };
                *kept.lock().expect("a lock") = request;
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let list = |name: &str| format!("{{ patterns: [{{ exact: {name} }}] }}");
    let service = format!(
        "allowed_headers: {}, http_service: {{ server_uri: {{ uri: 'http://auth', cluster: auth, timeout: 20s }}, path_prefix: /auth, authorization_request: {{ headers_to_add: [{{ key: x-add, value: v }}] }}, authorization_response: {{ allowed_upstream_headers: {}, allowed_upstream_headers_to_append: {}, allowed_client_headers: {}, allowed_client_headers_on_success: {} }} }}",
        list("x-a"),
        list("x-a"),
        list("x-ap"),
        list("x-c"),
        list("x-cs"),
    );
    let text = filtered(up.address, &[&filter("authz", EXT, &service)], &[TO_UP]);
    let proxy = Proxy::start(&with_clusters(&text, &[cluster("auth", auth.address, "")])).await;
    let request = "POST /in HTTP/1.1\r\nhost: w\r\nauthorization: t\r\nx-a: orig\r\nx-ap: o\r\nx-b: no\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    let answer = raw(proxy.at("http"), request).await;
    let asked = seen.lock().expect("a lock").clone();
    assert!(asked.starts_with("POST /auth/in HTTP/1.1\r\nhost: w\r\n"), "{asked}");
    for line in ["authorization: t", "x-a: orig", "x-add: v", "content-length: 0", "x-envoy-internal: true"] {
        assert_eq!(asked.matches(&format!("{line}\r\n")).count(), 1, "{line} in {asked}");
    }
    assert!(
        !asked.contains("x-b") && !asked.contains("body") && !asked.contains("x-forwarded-proto"),
        "{asked}"
    );
    for line in ["x-a: new", "x-ap: o", "x-ap: p", "x-b: no", "x-cs: cs"] {
        assert_eq!(answer.matches(&format!("{line}\r\n")).count(), 1, "{line} in {answer}");
    }
    assert!(!answer.contains("authorization") && !answer.contains("x-other"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nbody"), "{answer}");

    let answer = get(&proxy, "/login", "").await;
    assert_eq!(statuses(&answer), ["302"]);
    assert!(answer.contains("location: /l\r\n") && answer.contains("x-c: c\r\n"), "{answer}");
    assert!(!answer.contains("set-cookie") && answer.ends_with("\r\n\r\ngo"), "{answer}");
    assert_eq!(statuses(&get(&proxy, "/fail", "").await), ["403"]);
    wait_for_metric(&proxy, "envoy_http_ext_authz_error", 1.0).await;
}

#[tokio::test]
async fn the_service_is_told_as_much_of_the_body_as_it_wants_to_know() {
    let (up, (auth, told)) = (Upstream::echo().await, service().await);
    let ext = filter("authz", EXT, &format!("{GRPC}, with_request_body: {{ max_request_bytes: 4 }}"));
    let route = |prefix: &str, settings: &str| {
        format!(
            "{{ match: {{ prefix: {prefix} }}, route: {{ cluster: up }}, typed_per_filter_config: {{ authz: {{ \"@type\": {ROUTE}, check_settings: {{ {settings} }} }} }} }}"
        )
    };
    let partial =
        "with_request_body: { max_request_bytes: 4, allow_partial_message: true, pack_as_bytes: true }";
    let routes = [route("/part", partial), route("/none", "disable_request_body_buffering: true")];
    let text = filtered(up.address, &[&ext], &[&routes[0], &routes[1], TO_UP]);
    let proxy = Proxy::start(&with_clusters(&text, &[cluster("auth", auth, HTTP2)])).await;

    // What was told: as text, as bytes, and whether that was not all of it. In two pieces, so that it is waited for.
    for (path, body, status, asked) in [
        ("/all", "body", "200", Some(("body", "", Some("false")))),
        ("/all", "bodies", "413", None),
        ("/all", "", "200", Some(("", "", None))),
        ("/part", "bod", "200", Some(("", "bod", Some("false")))),
        ("/part", "bodies", "200", Some(("", "bodi", Some("true")))),
        ("/none", "bodies", "200", Some(("", "", None))),
    ] {
        *told.lock().expect("a lock") = AttributeContext::default();
        let (first, rest) = body.split_at(body.len() / 2);
        let chunks = [first, rest].map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()));
        let framed = if body.is_empty() {
            "content-length: 0\r\nconnection: close\r\n\r\n".to_owned()
        } else {
            format!("transfer-encoding: chunked\r\nconnection: close\r\n\r\n{}0\r\n\r\n", chunks.concat())
        };
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: w\r\nx-envoy-auth-partial-body: lie\r\n{framed}");
        let answer = raw(proxy.at("http"), &request).await;
        assert_eq!(statuses(&answer), [status], "{path} {body}");
        assert!(status != "200" || (answer.contains(first) && answer.contains(rest)), "{answer}");
        let told = told.lock().expect("a lock").clone();
        let told = told.request.and_then(|request| request.http);
        assert_eq!(told.is_some(), asked.is_some(), "{path} {body}");
        if let (Some(told), Some((text, bytes, partial))) = (told, asked) {
            assert_eq!(
                (told.body.as_str(), told.raw_body.as_slice()),
                (text, bytes.as_bytes()),
                "{path} {body}"
            );
            assert_eq!(
                told.headers.get("x-envoy-auth-partial-body").map(String::as_str),
                partial,
                "{path} {body}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_asked_for_in_full_is_refused_by_name() {
    let http = |fields: &str| {
        format!("http_service: {{ server_uri: {{ uri: 'http://a', cluster: up, timeout: 1s }}, {fields} }}")
    };
    for (fields, path) in [
        (format!("{GRPC}, clear_route_cache: true"), "clear_route_cache: is not supported"),
        (
            format!("{GRPC}, with_request_body: {{ allow_partial_message: true }}"),
            "with_request_body.max_request_bytes: must be at least 1",
        ),
        (String::new(), "grpc_service: is required"),
        (http("path_prefix: a"), "http_service.path_prefix: must begin"),
        (http("path_prefix: /a, path_override: /b"), "http_service: path_prefix and path_override exclude"),
        ("http_service: { server_uri: { uri: a, cluster: up } }".into(), "server_uri.timeout: is required"),
        (
            "grpc_service: { google_grpc: { target_uri: a, stat_prefix: b } }".into(),
            "google_grpc: is not supported",
        ),
    ] {
        let text = filtered(([127, 0, 0, 1], 1).into(), &[&filter("authz", EXT, &fields)], &[TO_UP]);
        let error =
            validate(parse_bootstrap(&text, Format::Yaml).expect("a bootstrap")).expect_err("refused");
        assert!(error.to_string().contains(path), "{error}");
    }
}
