//! HTTPS to the agents of nodes.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{
    pki::{self, ClusterPki, PkiError},
    wire::body::{Body, BoxError},
};

/// Until the connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the head of the answer is there; what follows may take as long as a log is followed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Who the agents see.
const USER: &str = "weft-apiserver";

/// Where an agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeAddress(SocketAddr);

/// Makes a connection for each request: they are few, and a connection that is not reused cannot be poisoned.
pub(crate) struct NodeClient {
    tls: TlsConnector,
    shutdown: CancellationToken,
}

/// A body without a type parameter that the compiler would have to prove things about for each lifetime.
struct Outgoing(Body);

/// Why an agent did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
}

// === impl NodeAddress ===

impl NodeAddress {
    /// What a Node object says.
    pub(crate) fn of(node: &Value) -> Option<Self> {
        let addresses = node["status"]["addresses"].as_array()?;
        let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
        let ip: IpAddr = internal["address"].as_str()?.parse().ok()?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        Some(Self(SocketAddr::new(ip, port)))
    }
}

// === impl NodeClient ===

impl NodeClient {
    pub(crate) fn new(pki: &ClusterPki, shutdown: CancellationToken) -> Result<Self, NodeClientError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in pki::certificates(pki.ca_pem()).map_err(NodeClientError::Pki)? {
            roots.add(certificate).map_err(NodeClientError::Tls)?;
        }
        let (cert, key) = pki.issue_client(USER, &[]).map_err(NodeClientError::Pki)?;
        let certificates = pki::certificates(&cert).map_err(NodeClientError::Pki)?;
        let key = pki::private_key(&key).map_err(NodeClientError::Pki)?;
        let config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(NodeClientError::Tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key)
            .map_err(NodeClientError::Tls)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), shutdown })
    }

    pub(crate) async fn send(
        &self,
        NodeAddress(address): NodeAddress,
        request: Request<Body>,
    ) -> Result<Response<Body>, NodeError> {
        let mut request = request.map(Outgoing);
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            self.tls.connect(ServerName::IpAddress(address.ip().into()), tcp).await
        };
        let tls = within(CONNECT_TIMEOUT, connect).await?;
        let tls = tls.map_err(|source| NodeError::Connect { address, source })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await;
        let (mut sender, connection) = handshake.map_err(NodeError::Http)?;
        // Ends with the answer's body, by error of either side, or with the server.
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => drop(ended),
                () = shutdown.cancelled() => {}
            }
        });
        let host = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("node"));
        request.headers_mut().insert(header::HOST, host);
        let answer = within(ANSWER_TIMEOUT, sender.send_request(request)).await?.map_err(NodeError::Http)?;
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Why connections to agents cannot be set up at all.
#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    /// The client certificate cannot be made.
    #[error("cannot issue the server's client certificate")]
    Pki(#[source] PkiError),
    /// The TLS library refuses the settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, NodeError> {
    tokio::time::timeout(limit, future).await.map_err(|_| NodeError::Timeout(limit))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_is_what_the_node_says_of_itself() {
        let node = |ip: &str, port: u64| {
            json!({"status": {
                "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": ip}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            }})
        };
        let address = NodeAddress::of(&node("127.0.0.1", 10250)).unwrap();
        assert_eq!(address.0.to_string(), "127.0.0.1:10250");
        assert!(NodeAddress::of(&node("evil.example", 1)).is_none());
        assert!(NodeAddress::of(&node("127.0.0.1", 0)).is_none());
        assert!(NodeAddress::of(&json!({})).is_none());
    }
}
