//! gRPC services that answer what a test says.

use std::{future::pending, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, request::Parts};
use tokio::net::TcpListener;
use weft_xds::grpc::{Message, frame, unframe};

/// What becomes of a call.
pub(crate) enum Said {
    /// This message.
    Message(Bytes),
    /// A status without a message.
    Status(u32),
    /// Nothing, for ever.
    Nothing,
}

/// The lines of a cluster that make it speak HTTP/2, in flow YAML.
pub(crate) const HTTP2: &str = r#"typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }"#;

/// A message to answer with.
pub(crate) fn message<M: Message>(message: &M) -> Said {
    Said::Message(frame(message))
}

/// Starts a service that gives each call's head and message to `answer`; ends with the test's runtime.
pub(crate) async fn serve<Q: Message + Default + 'static>(
    answer: impl Fn(&Parts, Q) -> Said + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let answer = Arc::clone(&answer);
                    tokio::spawn(async move {
                        let (parts, mut body) = request.into_parts();
                        let mut bytes = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                            bytes.extend_from_slice(&data);
                        }
                        let said = answer(&parts, unframe(&bytes).expect("a message"));
                        say(respond, said).await;
                    });
                }
            });
        }
    });
    address
}

async fn say(mut respond: h2::server::SendResponse<Bytes>, said: Said) {
    let head = || Response::builder().header("content-type", "application/grpc");
    match said {
        Said::Nothing => pending().await,
        Said::Status(status) => {
            let head = head().header("grpc-status", status).body(()).expect("a head");
            let _ = respond.send_response(head, true);
        }
        Said::Message(bytes) => {
            let Ok(mut stream) = respond.send_response(head().body(()).expect("a head"), false) else {
                return;
            };
            let _ = stream.send_data(bytes, false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }
    }
}

/// A cluster of one endpoint, as flow YAML for [`with_clusters`].
pub(crate) fn cluster(name: &str, address: SocketAddr, fields: &str) -> String {
    format!(
        "{{ name: {name}, connect_timeout: 1s, load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}, {fields} }}",
        address.port()
    )
}

/// A bootstrap with these further clusters.
pub(crate) fn with_clusters(bootstrap: &str, clusters: &[String]) -> String {
    let lines: String = clusters.iter().map(|cluster| format!("    - {cluster}\n")).collect();
    bootstrap.replacen("  clusters:\n", &format!("  clusters:\n{lines}"), 1)
}
