use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{Process, Proxy, Upstream, bootstrap, closes, raw, statuses};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: w\r\n\r\n";

/// An overload manager whose memory is `max` bytes, and these actions from so much of it on.
fn manager(max: u64, actions: &[(&str, f64)]) -> String {
    let actions: String = actions
        .iter()
        .map(|(name, threshold)| {
            format!(
                "    - name: envoy.overload_actions.{name}\n      triggers: [{{ name: envoy.resource_monitors.fixed_heap, threshold: {{ value: {threshold} }} }}]\n"
            )
        })
        .collect();
    format!(
        r#"overload_manager:
  refresh_interval: 0.05s
  resource_monitors:
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {max}
  actions:
{actions}"#
    )
}

/// A proxy that has seen that its one byte of memory is used up.
async fn overloaded(action: &str) -> (Proxy, Upstream) {
    let upstream = Upstream::echo().await;
    let config = format!("{}{}", manager(1, &[(action, 0.95)]), bootstrap(&[upstream.address], "", "", ""));
    let proxy = Proxy::start(&config).await;
    let active = format!("envoy_overload_envoy_overload_actions_{action}_active");
    let deadline = Instant::now() + Duration::from_secs(20);
    while proxy.metric(&active).await != 1.0 {
        assert!(Instant::now() < deadline, "{action} is never active");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (proxy, upstream)
}

#[tokio::test]
async fn connections_are_not_kept_alive_under_pressure() {
    let (proxy, _upstream) = overloaded("disable_http_keepalive").await;
    let answer = raw(proxy.at("http"), REQUEST).await;
    assert_eq!(statuses(&answer), ["200"]);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_downstream_cx_overload_disable_keepalive").await, 1.0);
    assert!(proxy.metric("envoy_overload_envoy_resource_monitors_fixed_heap_pressure").await > 100.0);
}

#[tokio::test]
async fn requests_are_refused_under_more_pressure() {
    let (proxy, upstream) = overloaded("stop_accepting_requests").await;
    let answer = raw(proxy.at("http"), REQUEST).await;
    assert_eq!(statuses(&answer), ["503"]);
    assert!(answer.ends_with("envoy overloaded"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_downstream_rq_overload_close").await, 1.0);
    assert_eq!(upstream.connections(), 0, "nothing of it reaches the upstream");
}

#[tokio::test]
async fn connections_are_closed_at_once_if_that_is_asked_for() {
    let (proxy, _upstream) = overloaded("reject_incoming_connections").await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("the kernel accepts");
    assert!(closes(&mut stream).await);
    assert_eq!(proxy.metric("envoy_listener_downstream_cx_overload_reject").await, 1.0);
}

#[tokio::test]
async fn connections_wait_in_the_socket_if_that_is_asked_for() {
    let (proxy, _upstream) = overloaded("stop_accepting_connections").await;
    let mut waiting = 0;
    // What a worker was waiting for already is still taken in.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(proxy.at("http")).await.expect("the kernel accepts");
        stream.write_all(REQUEST.as_bytes()).await.expect("the kernel takes it");
        let read = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut [0; 16])).await;
        waiting += usize::from(read.is_err());
    }
    assert!(waiting >= 6, "only {waiting} of 8 are held back");
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed() {
    let upstream = Upstream::echo().await;
    let limit = r#"overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 2
"#;
    let proxy = Proxy::start(&format!("{limit}{}", bootstrap(&[upstream.address], "", "", ""))).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
        stream.write_all(REQUEST.as_bytes()).await.expect("writes");
        assert!(stream.read(&mut [0; 16]).await.expect("an answer") > 0);
        open.push(stream);
    }
    let mut third = TcpStream::connect(proxy.at("http")).await.expect("the kernel accepts");
    assert!(closes(&mut third).await);
    assert_eq!(proxy.metric("envoy_listener_downstream_global_cx_overflow").await, 1.0);
    open.clear();
    let deadline = Instant::now() + Duration::from_secs(20);
    while statuses(&raw(proxy.at("http"), REQUEST).await) != ["200"] {
        assert!(Instant::now() < deadline, "the places are never given back");
    }
}

#[tokio::test]
async fn the_program_sheds_by_its_own_memory_and_carries_on_below_it() {
    let upstream = Upstream::echo().await;
    let traffic = bootstrap(&[upstream.address], "", "", "");
    let shed = [("stop_accepting_requests", 0.95)];
    // Any process has more than 64 KiB of its own, and this one less than 4 GiB.
    let full = Process::start(&format!("{}{traffic}", manager(64 * 1024, &shed)), &[]).await;
    let address = full.listener().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while statuses(&raw(address, REQUEST).await) != ["503"] {
        assert!(Instant::now() < deadline, "it never sheds");
    }
    let roomy = Process::start(&format!("{}{traffic}", manager(4 << 30, &shed)), &[]).await;
    assert_eq!(statuses(&raw(roomy.listener().await, REQUEST).await), ["200"]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let traffic = bootstrap(&[], "", "", "");
    for (config, expected) in [
        (
            manager(1, &[("shrink_heap", 0.9)]),
            "overload_manager.actions[0].name: action \"envoy.overload_actions.shrink_heap\"",
        ),
        (manager(1, &[("reduce_timeouts", 0.9)]), "reduce_timeouts"),
        (manager(1, &[("disable_http_keepalive", 1.5)]), "actions[0].triggers[0].threshold.value: must be"),
        (
            manager(1, &[("disable_http_keepalive", 0.5)])
                .replace("triggers: [{ name: envoy.", "triggers: [{ name: other."),
            "actions[0].triggers[0].name: there is no monitor",
        ),
        (
            manager(1, &[])
                .replace("fixed_heap.v3.FixedHeapConfig", "injected_resource.v3.InjectedResourceConfig")
                .replace("        max_heap_size_bytes: 1\n", "        filename: a\n"),
            "resource_monitors[0].typed_config: unknown type",
        ),
    ] {
        let error = match parse_bootstrap(&format!("{config}{traffic}"), Format::Yaml) {
            Ok(bootstrap) => validate(bootstrap).expect_err(expected).to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{error}\n{config}");
    }
}
