//! Our side of sessions with upstreams.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{ClientConfig, HandshakeKind, client::UnbufferedClientConnection, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    material::Material,
    records::Session,
    stream::{HandshakeError, TlsStream},
};
use crate::metrics::TlsCells;

/// The TLS of a cluster. Empty until the secrets that it names are there.
#[derive(Debug, Default)]
pub(crate) struct ClientTls {
    current: ArcSwapOption<ClientSettings>,
}

/// One state of it. Its sessions are resumed by all connections of the cluster.
#[derive(Debug)]
pub(crate) struct ClientSettings {
    /// By what is to be spoken.
    pub(crate) opaque: Arc<ClientConfig>,
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
    /// What upstreams are asked for; the endpoint's address if nothing, which is not sent.
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) material: Material,
}

/// What is to be spoken in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Opaque,
    Http1,
    Http2,
}

// === impl ClientTls ===

impl ClientTls {
    pub(crate) fn is_ready(&self) -> bool {
        self.current.load().is_some()
    }

    pub(crate) fn set(&self, settings: ClientSettings) {
        self.current.store(Some(Arc::new(settings)));
    }

    /// Agrees with an upstream on a session.
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        spoken: Spoken,
        cells: &TlsCells,
    ) -> io::Result<TlsStream> {
        let (config, name) = self.settings(address, spoken)?;
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let stream = TlsStream::new(socket, Session::Client(Box::new(session)), &[]);
        if let Err(error) = poll_fn(|cx| stream.poll_handshake(cx)).await {
            cells.count_failure(&error);
            return Err(match error {
                HandshakeError::Io(error) => error,
                HandshakeError::Tls(error) => io::Error::other(error),
            });
        }
        let (resumed, has_peer, fits) = stream.with_state(|state| {
            (
                state.handshake_kind() == Some(HandshakeKind::Resumed),
                state.peer_certificates().is_some(),
                spoken != Spoken::Http2 || state.alpn_protocol().is_none_or(|alpn| alpn == b"h2"),
            )
        });
        cells.count_success(resumed, has_peer);
        if !fits {
            return Err(io::Error::other("the upstream does not speak HTTP/2"));
        }
        Ok(stream)
    }

    /// The same off the data threads, for what is no traffic: nothing of it is counted.
    pub(crate) async fn connect_aside(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        spoken: Spoken,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let (config, name) = self.settings(address, spoken)?;
        TlsConnector::from(config).connect(name, socket).await
    }

    fn settings(
        &self,
        address: SocketAddr,
        spoken: Spoken,
    ) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let settings =
            self.current.load_full().ok_or_else(|| io::Error::other("a secret of the cluster is missing"))?;
        let config = match spoken {
            Spoken::Opaque => &settings.opaque,
            Spoken::Http1 => &settings.http1,
            Spoken::Http2 => &settings.http2,
        };
        let name = settings.server_name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        Ok((Arc::clone(config), name))
    }

    /// What is in force, for people.
    pub(crate) fn material(&self) -> Option<Material> {
        self.current.load().as_ref().map(|settings| settings.material.clone())
    }
}
