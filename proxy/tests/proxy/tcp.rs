use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{HeldPort, Proxy, Upstream, closes, raw, statuses, wait_for_metric};

fn bootstrap(port: u16, listener: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
    - name: tcp
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
{listener}
  clusters:
    - name: up
      type: STRICT_DNS
      dns_lookup_family: V4_ONLY
      connect_timeout: 1s
      load_assignment:
        cluster_name: up
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
"#
    )
}

const PLAIN: &str = r#"      filter_chains:
        - filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: tcp
                cluster: up"#;

const DETECTING: &str = r#"      listener_filters:
        - name: inspector
          typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector }
      listener_filters_timeout: 0.3s
      continue_on_listener_filters_timeout: true
      filter_chains:
        - filter_chain_match: { application_protocols: [http/1.0, http/1.1, h2c] }
          filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: web
                route_config:
                  virtual_hosts:
                    - { name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }
                http_filters:
                  - name: router
                    typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
      default_filter_chain:
        filters:
          - name: tcp
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
              stat_prefix: tcp
              cluster: up"#;

/// Waits until name resolution has found the only endpoint.
async fn ready(proxy: &Proxy) {
    for _ in 0..100 {
        if proxy.metric("envoy_cluster_membership_healthy").await > 0.0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the name was not resolved");
}

#[tokio::test]
async fn each_side_may_finish_by_itself() {
    // Sums what it gets and answers only after the end.
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("reads");
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.expect("writes");
    })
    .await;
    let proxy = Proxy::start(&bootstrap(upstream.address.port(), PLAIN)).await;
    ready(&proxy).await;
    // Enough for the bulk path, and a little for the other.
    for size in [3, 10_000_000] {
        let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
        stream.write_all(&vec![7; size]).await.expect("writes");
        stream.shutdown().await.expect("half-closes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer, format!("got {size}"));
    }
    assert_eq!(proxy.metric("envoy_tcp_downstream_cx_rx_bytes_total").await, 10_000_003.0);
}

#[tokio::test]
async fn http_is_told_from_other_protocols_and_silence_is_no_reason_to_hang() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        stream.write_all(b"220 mail\r\n").await.expect("writes");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let proxy = Proxy::start(&bootstrap(upstream.address.port(), DETECTING)).await;
    ready(&proxy).await;
    let answer = raw(proxy.at("tcp"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    assert!(raw(proxy.at("tcp"), "\u{1}\u{2}binary").await.ends_with("\u{1}\u{2}binary"));
    // The server speaks first: nothing to detect, the default chain has it after the timeout.
    let mut silent = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
    let mut greeting = [0; 10];
    silent.read_exact(&mut greeting).await.expect("reads");
    assert_eq!(&greeting, b"220 mail\r\n");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_closed_connection() {
    let nobody = HeldPort::bind();
    let proxy = Proxy::start(&bootstrap(nobody.address.port(), PLAIN)).await;
    ready(&proxy).await;
    // The reset may come before the client even knows that it is connected.
    if let Ok(mut stream) = TcpStream::connect(proxy.at("tcp")).await {
        assert!(closes(&mut stream).await);
    }
}

/// [`PLAIN`] with further settings of the TCP proxy.
fn with(settings: &str) -> String {
    format!("{PLAIN}\n                {settings}")
}

/// Says something and then waits.
async fn greeting() -> Upstream {
    Upstream::scripted(|mut stream, _| async move {
        stream.write_all(b"hello").await.expect("writes");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn silence_and_age_end_a_connection() {
    for (setting, metric) in [
        ("idle_timeout: 0.3s", "envoy_tcp_idle_timeout"),
        ("max_downstream_connection_duration: 0.3s", "envoy_tcp_max_downstream_connection_duration"),
    ] {
        let upstream = greeting().await;
        let proxy = Proxy::start(&bootstrap(upstream.address.port(), &with(setting))).await;
        ready(&proxy).await;
        let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an end in order");
        assert_eq!(answer, b"hello");
        wait_for_metric(&proxy, metric, 1.0).await;
        wait_for_metric(&proxy, "envoy_cluster_upstream_cx_active", 0.0).await;
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        stream.write_all(b"half of").await.expect("writes");
        // Wait until that is taken, or the reset would take it back.
        stream.read_exact(&mut [0; 1]).await.expect("reads");
        stream.set_zero_linger().expect("an option");
    })
    .await;
    let proxy = Proxy::start(&bootstrap(upstream.address.port(), PLAIN)).await;
    ready(&proxy).await;
    let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
    stream.read_exact(&mut [0; 7]).await.expect("reads");
    stream.write_all(b"x").await.expect("writes");
    let error = stream.read_to_end(&mut Vec::new()).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_answer_arrives_though_the_server_takes_no_more() {
    // Refuses the upload after its first bytes, and says so before it closes.
    let upstream = Upstream::scripted(|mut stream, _| async move {
        stream.read_exact(&mut [0; 1]).await.expect("reads");
        stream.write_all(b"no").await.expect("writes");
        stream.shutdown().await.expect("half-closes");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let proxy = Proxy::start(&bootstrap(upstream.address.port(), PLAIN)).await;
    ready(&proxy).await;
    let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
    stream.write_all(&[1; 100_000]).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    assert_eq!(answer, b"no");
}

#[tokio::test]
async fn every_attempt_to_connect_is_counted_and_the_last_one_ends_it() {
    let nobody = HeldPort::bind();
    let proxy = Proxy::start(&bootstrap(nobody.address.port(), &with("max_connect_attempts: 3"))).await;
    ready(&proxy).await;
    if let Ok(mut stream) = TcpStream::connect(proxy.at("tcp")).await {
        assert!(closes(&mut stream).await);
    }
    wait_for_metric(&proxy, "envoy_cluster_upstream_cx_connect_fail", 3.0).await;
    wait_for_metric(&proxy, "envoy_cluster_upstream_cx_connect_attempts_exceeded", 1.0).await;
}
