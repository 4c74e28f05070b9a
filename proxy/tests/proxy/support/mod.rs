//! A proxy in this process, upstreams that do what a test says, and clients that send exactly what a test says.

pub(crate) mod control;
pub(crate) mod frames;
pub(crate) mod grpc;
pub(crate) mod pki;
mod port;
mod process;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use weft_proxy::server::{DrainPlan, Options, Server};
use weft_xds::json::{Format, parse_bootstrap};

pub(crate) use self::{port::HeldPort, process::Process};

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) server: Server,
    _panics: NoPanics,
}

/// Fails the test at its end if anything that it did made a data thread panic.
struct NoPanics(Arc<AtomicU64>);

impl Drop for NoPanics {
    fn drop(&mut self) {
        let panics = self.0.load(Ordering::SeqCst);
        assert!(std::thread::panicking() || panics == 0, "data threads panicked {panics} times");
    }
}

/// A server for the proxy to talk to; ends with the test's runtime.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy with this bootstrap and an admin address.
    pub(crate) async fn start(bootstrap: &str) -> Self {
        Self::with_threads(bootstrap, 2).await
    }

    pub(crate) async fn with_threads(bootstrap: &str, concurrency: usize) -> Self {
        let drain = DrainPlan { time: Duration::from_secs(5), ..DrainPlan::default() };
        Self::with_options(bootstrap, Options { concurrency, drain, ..Options::default() }).await
    }

    pub(crate) async fn with_options(bootstrap: &str, options: Options) -> Self {
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let bootstrap = parse_bootstrap(&format!("{admin}{bootstrap}"), Format::Yaml).expect("a bootstrap");
        let server = Server::start(bootstrap, options).await.expect("the proxy starts");
        let _panics = NoPanics(server.caught_panics());
        Self { server, _panics }
    }

    /// Where a listener listens.
    pub(crate) fn at(&self, listener: &str) -> SocketAddr {
        self.server.listener_addresses()[listener]
    }

    /// The body of an admin answer.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> String {
        let address = self.server.admin_address().expect("an admin address");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = raw(address, &request).await;
        answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())
    }

    /// The value of a counter of the only cluster or manager that has it.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("GET", "/stats/prometheus").await;
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Upstream {
    /// Runs `script` for each connection.
    pub(crate) async fn scripted<F>(script: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(stream, number));
            }
        });
        Self { address, connections }
    }

    /// Answers each request with 200 and, as its body, the request as it came.
    pub(crate) async fn echo() -> Self {
        Self::scripted(|mut stream, _| async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
                if stream.write_all(&[head.as_bytes(), &request].concat()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Reads one request on each connection, sends this, and closes.
    pub(crate) async fn canned(answer: &'static str) -> Self {
        Self::scripted(move |mut stream, _| async move {
            let _ = read_request(&mut stream, &mut Vec::new()).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One whole request, head and body, as it came.
pub(crate) async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let total = if head.contains("transfer-encoding: chunked") {
                find(&buffer[end..], b"0\r\n\r\n").map(|at| end + at + 5)
            } else {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.trim().parse().expect("a length"));
                Some(end + 4 + length)
            };
            if let Some(total) = total.filter(|total| *total <= buffer.len()) {
                return Some(buffer.drain(..total).collect());
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Sends this and reads until the other side closes, or has been silent for a while.
pub(crate) async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    read_all(&mut stream).await
}

/// Reads until the other side closes, or has been silent for a while after it said something: how long an answer takes
/// depends on how busy the machine is.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let patience = if answer.is_empty() { Duration::from_secs(20) } else { Duration::from_millis(700) };
        match tokio::time::timeout(patience, stream.read_buf(&mut answer)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return String::from_utf8_lossy(&answer).into_owned(),
        }
    }
}

/// Whether the other side closes within a second.
pub(crate) async fn closes(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    loop {
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut rest)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

/// The statuses of the answers in a text, in order.
pub(crate) fn statuses(answer: &str) -> Vec<&str> {
    answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect()
}

/// A bootstrap with an HTTP listener `http` that sends everything to the cluster `up`, with further lines for the
/// connection manager, the route and the cluster.
pub(crate) fn bootstrap(upstreams: &[SocketAddr], manager: &str, route: &str, cluster: &str) -> String {
    let endpoints: String = upstreams
        .iter()
        .map(|address| {
            format!(
                "              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n",
                address.ip(),
                address.port()
            )
        })
        .collect();
    let endpoints = if endpoints.is_empty() {
        "          - {}\n".to_owned()
    } else {
        format!("          - lb_endpoints:\n{endpoints}")
    };
    let indent = |text: &str, by: usize| -> String {
        text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
    };
    format!(
        r#"static_resources:
  listeners:
    - name: http
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
      filter_chains:
        - filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: test
{manager}                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: {{ prefix: / }}
                          route:
                            cluster: up
{route}                http_filters:
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: up
      connect_timeout: 1s
{cluster}      load_assignment:
        cluster_name: up
        endpoints:
{endpoints}"#,
        manager = indent(manager, 16),
        route = indent(route, 28),
        cluster = indent(cluster, 6),
    )
}

/// A proxy in front of these, with nothing special.
pub(crate) async fn simple(upstreams: &[SocketAddr]) -> Proxy {
    Proxy::start(&bootstrap(upstreams, "", "", "")).await
}

/// Waits until a metric has this value.
pub(crate) async fn wait_for_metric(proxy: &Proxy, name: &str, value: f64) {
    for _ in 0..250 {
        if proxy.metric(name).await == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} did not become {value}");
}
