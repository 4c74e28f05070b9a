//! Calls to real servers on the loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};
use weft_xds::{
    grpc::{frame, unframe},
    json::{Format, parse_bootstrap},
    pb::envoy::config::core::v3::Node,
};

use super::{
    Answer, Call, Failure, Keep,
    grpc::{GrpcError, GrpcService},
};
use crate::{
    cluster::{Cluster, ClusterSlot, breaker::Priority},
    config::{Path, cluster, names::Names},
    http::head::{Head, Method},
    proxy_protocol::Addresses,
    worker::{Shared, Worker, drain::DrainPlan},
};

/// One data thread and a cluster of one endpoint.
struct Bed {
    worker: Worker,
    cluster: Arc<Cluster>,
}

impl Bed {
    fn new(address: SocketAddr, fields: &str) -> Self {
        let text = format!(
            "static_resources: {{ clusters: [{{ name: up, connect_timeout: 1s, load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}, {fields} }}] }}",
            address.port()
        );
        let bootstrap = parse_bootstrap(&text, Format::Yaml).expect("a bootstrap");
        let message = &bootstrap.static_resources.expect("resources").clusters[0];
        let shared = Arc::new(Shared::new(1, DrainPlan::default()));
        let mut names = Names::new(Default::default(), Default::default());
        let compiled = cluster::compile(&Path::default(), message, &shared, &mut names, None);
        let cluster = Arc::new(compiled.expect("a cluster"));
        Self { worker: Worker::new(0, shared), cluster }
    }

    fn call<'c>(&'c self, head: &'c Head, body: &'c Bytes) -> Call<'c> {
        Call {
            worker: &self.worker,
            cluster: &self.cluster,
            head,
            body,
            priority: Priority::Default,
            hash: None,
            client: Addresses { source: ([127, 0, 0, 1], 1).into(), destination: ([127, 0, 0, 1], 2).into() },
            timeout: Some(Duration::from_secs(20)),
            keep: Keep::Within(1_000),
        }
    }
}

const HTTP2: &str = r#"typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }"#;

fn head(method: Method, text: &str) -> Head {
    let mut head = Head::default();
    let text = head.intern(text.as_bytes());
    head.set_method(method, text);
    let target = head.intern(b"/check?a=b");
    head.set_target(target);
    let authority = head.intern(b"auth");
    head.set_authority(authority);
    head.append(b"x-a", b"1");
    head
}

/// A server that reads a request and sends the next of these answers, on each connection until it has none; the
/// requests, and how many connections there were.
async fn scripted(
    answers: &'static [&'static str],
) -> (SocketAddr, mpsc::UnboundedReceiver<String>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (told, requests) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let told = told.clone();
            tokio::spawn(async move {
                for answer in answers {
                    let Some(request) = read(&mut stream).await else { return };
                    let _ = told.send(request);
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, requests, connections)
}

/// A head and what came with it.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

const OK: &str = "HTTP/1.1 200 OK\r\nx-b: 2\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_call_over_http1_has_its_fields_and_body_and_the_connection_is_used_again() {
    let (address, mut requests, connections) = scripted(&[
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-b: 2\r\ncontent-length: 5\r\n\r\nhello",
        OK,
    ])
    .await;
    let local = LocalSet::new();
    let run = local.run_until(async {
        let bed = Bed::new(address, "");
        let (head, body) = (head(Method::Post, "POST"), Bytes::from_static(b"body"));
        for _ in 0..2 {
            let answer = bed.call(&head, &body).send().await.expect("an answer");
            assert_eq!((answer.head.status, answer.head.get(b"x-b")), (200, Some(&b"2"[..])));
            assert_eq!(answer.body, b"hello");
        }
        let cells = bed.cluster.stats.at(0);
        assert_eq!((cells.rq_total.get(), cells.rq_completed.get(), cells.cx_total.get()), (2, 2, 1));
    });
    run.await;
    let request = requests.recv().await.expect("a request");
    assert_eq!(request, "POST /check?a=b HTTP/1.1\r\nhost: auth\r\nx-a: 1\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_garbled_or_cut_off_is_none_and_its_connection_is_not_kept() {
    let cases: [(&'static [&'static str], Failure); 4] = [
        (&["HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n"], Failure::Reset),
        (&["HTTP/1.1 200 OK\r\nno field\r\n\r\n"], Failure::Protocol),
        (&["HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"], Failure::Protocol),
        (&[], Failure::Reset),
    ];
    for (answers, failure) in cases {
        let (address, _requests, _) = scripted(answers).await;
        LocalSet::new()
            .run_until(async {
                let bed = Bed::new(address, "");
                let result = bed.call(&head(Method::Get, "GET"), &Bytes::new()).send().await;
                assert_eq!(result.err(), Some(failure), "{answers:?}");
            })
            .await;
    }
    let (address, _requests, connections) = scripted(&[OK, OK]).await;
    LocalSet::new()
        .run_until(async {
            let bed = Bed::new(address, "");
            let (head, none) = (head(Method::Get, "GET"), Bytes::new());
            let small = Call { keep: Keep::Within(4), ..bed.call(&head, &none) };
            assert_eq!(small.send().await.err(), Some(Failure::TooLarge));
            let nothing = Call { keep: Keep::Nothing, ..small };
            assert_eq!(nothing.send().await.expect("an answer").body, b"");
        })
        .await;
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_call_that_times_out_or_is_dropped_takes_its_connection_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    LocalSet::new()
        .run_until(async {
            let bed = Bed::new(address, "");
            let (head, none) = (head(Method::Get, "GET"), Bytes::new());
            let call = Call { timeout: Some(Duration::from_millis(20)), ..bed.call(&head, &none) };
            assert_eq!(call.send().await.err(), Some(Failure::Timeout));
            let (mut first, _) = listener.accept().await.expect("a connection");
            assert!(read(&mut first).await.is_some());
            assert_eq!(first.read(&mut [0]).await.expect("an end"), 0);

            let waiting = bed.call(&head, &none);
            let mut second = tokio::select! {
                _ = waiting.send() => panic!("nobody answers"),
                second = async {
                    let (mut second, _) = listener.accept().await.expect("a connection");
                    assert!(read(&mut second).await.is_some());
                    second
                } => second,
            };
            assert_eq!(second.read(&mut [0]).await.expect("an end"), 0);
            let cells = bed.cluster.stats.at(0);
            assert_eq!((cells.rq_timeout.get(), cells.rq_cancelled.get()), (1, 1));
            assert_eq!(bed.cluster.breaker.requests.load(Ordering::Relaxed), 0);
        })
        .await;
}

#[tokio::test]
async fn circuit_limits_and_a_cluster_without_endpoints_refuse_at_once() {
    LocalSet::new()
        .run_until(async {
            let nobody = ([127, 0, 0, 1], 1).into();
            let none = Bed::new(nobody, "circuit_breakers: { thresholds: [{ max_requests: 0 }] }");
            let (head, body) = (head(Method::Get, "GET"), Bytes::new());
            assert_eq!(none.call(&head, &body).send().await.err(), Some(Failure::Overflow));
            let down = Bed::new(nobody, "");
            assert_eq!(down.call(&head, &body).send().await.err(), Some(Failure::Connect));
            down.cluster.replace_endpoints(Default::default());
            assert_eq!(down.call(&head, &body).send().await.err(), Some(Failure::NoEndpoint));
        })
        .await;
}

/// How a gRPC server answers a call.
#[derive(Clone, Copy)]
enum Says {
    /// The message of the request and this status, in trailers.
    Back(&'static str),
    /// Only a status, in the head.
    Only(&'static str),
    /// No gRPC at all.
    Http(u16),
}

/// A server of one kind of answer; what it saw of the calls.
async fn grpc_server(says: Says) -> (SocketAddr, mpsc::UnboundedReceiver<http::request::Parts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (told, calls) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut h2 = h2::server::handshake(stream).await.expect("shakes hands");
                while let Some(Ok((request, mut respond))) = h2.accept().await {
                    let (parts, mut body) = request.into_parts();
                    let _ = told.send(parts);
                    tokio::spawn(async move {
                        let mut all = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            all.extend_from_slice(&data);
                        }
                        let response = http::Response::builder();
                        match says {
                            Says::Back(status) => {
                                let head = response.status(200).body(()).expect("a head");
                                let mut stream = respond.send_response(head, false).expect("sent");
                                stream.send_data(all.into(), false).expect("sent");
                                let mut trailers = http::HeaderMap::new();
                                trailers.insert("grpc-status", status.parse().expect("a value"));
                                stream.send_trailers(trailers).expect("sent");
                            }
                            Says::Only(status) => {
                                let head = response.header("grpc-status", status).body(()).expect("a head");
                                respond.send_response(head, true).expect("sent");
                            }
                            Says::Http(status) => {
                                let head = response.status(status).body(()).expect("a head");
                                respond.send_response(head, true).expect("sent");
                            }
                        }
                    });
                }
            });
        }
    });
    (address, calls)
}

async fn call_grpc(says: Says) -> (Result<Answer, Failure>, http::request::Parts) {
    let (address, mut calls) = grpc_server(says).await;
    let answer = LocalSet::new()
        .run_until(async {
            let bed = Bed::new(address, HTTP2);
            let node = Node { id: "n".into(), ..Node::default() };
            let service = service();
            let head = service.head("/a.B/C");
            service_call(&bed, &head, &frame(&node)).await
        })
        .await;
    (answer, calls.recv().await.expect("a call"))
}

async fn service_call(bed: &Bed, head: &Head, body: &Bytes) -> Result<Answer, Failure> {
    bed.call(head, body).send().await
}

fn service() -> GrpcService {
    GrpcService {
        cluster: Arc::new(ClusterSlot::empty("up")),
        authority: b"svc".to_vec(),
        timeout: Some(Duration::from_millis(200)),
        metadata: vec![(b"x-m".to_vec(), b"v".to_vec())],
        largest: None,
        envoy_fields: true,
    }
}

#[tokio::test]
async fn a_grpc_call_says_its_deadline_and_reads_its_status_in_both_places() {
    let (answer, call) = call_grpc(Says::Back("0")).await;
    let node: Node = GrpcService::result(answer.expect("an answer")).expect("a message");
    assert_eq!(node.id, "n");
    assert_eq!((call.method.as_str(), call.uri.path()), ("POST", "/a.B/C"));
    assert_eq!(call.uri.authority().map(http::uri::Authority::as_str), Some("svc"));
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "200m"),
        ("x-m", "v"),
        ("x-envoy-internal", "true"),
        ("x-envoy-expected-rq-timeout-ms", "200"),
    ] {
        assert_eq!(call.headers[name], value);
    }
    for (says, wanted) in [
        (Says::Back("7"), "status 7"),
        (Says::Only("14"), "status 14"),
        (Says::Only("0"), "the answer cannot be read"),
        (Says::Http(503), "HTTP status 503 without a gRPC status"),
        (Says::Http(200), "HTTP status 200 without a gRPC status"),
    ] {
        let (answer, _) = call_grpc(says).await;
        let error: GrpcError =
            GrpcService::result::<Node>(answer.expect("an answer")).expect_err("no message");
        assert_eq!(error.to_string(), wanted);
    }
    assert!(unframe::<Node>(&frame(&Node::default())).is_ok());
}
