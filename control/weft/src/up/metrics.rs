//! What Prometheus reads of control: the metrics of every component, and where the sidecars are.
//!
//! * `/metrics`: the text format, all components together.
//! * `/targets`: the admin endpoint of every sidecar and gateway as Prometheus' HTTP service discovery reads it
//!   (`http_sd_configs`), with the pod's name, namespace and labels.
//!
//! Plain HTTP on loopback: there is nothing in it that needs a secret, and everything on the machine may read it.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weft_api::mesh::{ADMIN_PORT, GATEWAY_ADMIN, SIDECAR_ADDRESS};
use weft_kit::error::chain;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `shutdown`.
#[derive(Debug)]
pub(super) struct MetricsServer {
    listener: TcpListener,
}

/// What the server answers from.
#[derive(Clone)]
pub(super) struct Sources {
    /// Must be allowed to read the metrics, the pods and the nodes.
    pub(super) client: Client,
}

// === impl MetricsServer ===

impl MetricsServer {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    pub(super) async fn run(self, sources: Sources, shutdown: CancellationToken) {
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(
                            shutdown.clone().run_until_cancelled_owned(connection(stream, sources.clone())),
                        );
                    }
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot accept a connection for metrics");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(accept).await;
    }
}

async fn connection(stream: TcpStream, sources: Sources) {
    let service = service_fn(move |request| {
        let sources = sources.clone();
        async move { Ok::<_, Infallible>(sources.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = chain(&error), "a metrics connection broke");
    }
}

// === impl Sources ===

impl Sources {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/targets" => self.targets().await,
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /targets\n"),
        }
    }

    /// What the API server shows under the same path, which covers every component.
    async fn metrics(&self) -> Response<Full<Bytes>> {
        let request = Request::get("/metrics").body(Vec::new());
        let outcome = match request {
            Ok(request) => self.client.request_text(request).await,
            Err(error) => Err(kube::Error::HttpError(error)),
        };
        match outcome {
            Ok(body) => respond(StatusCode::OK, "text/plain; version=0.0.4", body.into_bytes()),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", chain(&error))),
        }
    }

    async fn targets(&self) -> Response<Full<Bytes>> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let nodes: Api<Node> = Api::all(self.client.clone());
        // resourceVersion 0: what the watch cache holds is good enough and costs the store nothing.
        let params = ListParams::default().match_any();
        match tokio::try_join!(pods.list(&params), nodes.list(&params)) {
            Ok((pods, nodes)) => {
                let sidecars = pods.items.iter().filter_map(sidecar_target);
                let gateways = nodes.items.iter().filter_map(gateway_target);
                let all: Vec<Value> = sidecars.chain(gateways).collect();
                respond(StatusCode::OK, "application/json", Value::from(all).to_string().into_bytes())
            }
            // Prometheus keeps its last list when this fails.
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", chain(&error))),
        }
    }
}

fn sidecar_target(pod: &Pod) -> Option<Value> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let host = pod.annotations().get(SIDECAR_ADDRESS).or(status.pod_ip.as_ref())?;
    Some(json!({
        "targets": [format!("{host}:{ADMIN_PORT}")],
        "labels": {
            "__metrics_path__": "/stats/prometheus",
            "namespace": pod.namespace().unwrap_or_default(),
            "pod": pod.name_any(),
            "app": pod.labels().get("app").map_or("", String::as_str),
        },
    }))
}

fn gateway_target(node: &Node) -> Option<Value> {
    let admin = node.annotations().get(GATEWAY_ADMIN)?;
    Some(json!({
        "targets": [admin],
        "labels": { "__metrics_path__": "/stats/prometheus", "node": node.name_any(), "app": "gateway" },
    }))
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain", text.as_bytes().to_vec())
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_pod_is_scraped_at_its_sidecar() {
        let pod = |phase: &str, annotations: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "web-1", "namespace": "default", "labels": {"app": "web"}, "annotations": annotations
                },
                "status": {"phase": phase, "podIP": "127.64.0.2"},
            }))
            .expect("a pod")
        };
        let target =
            sidecar_target(&pod("Running", json!({SIDECAR_ADDRESS: "127.64.0.3"}))).expect("it runs");
        assert_eq!(target["targets"], json!(["127.64.0.3:15000"]));
        assert_eq!(target["labels"]["pod"], "web-1");
        let captured = sidecar_target(&pod("Running", json!({}))).expect("it runs");
        assert_eq!(captured["targets"], json!(["127.64.0.2:15000"]));
        assert_eq!(sidecar_target(&pod("Succeeded", json!({}))), None);
    }
}
