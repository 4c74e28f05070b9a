//! Connections that have to be made secure before they are served.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::transport::Connection;

/// Makes an accepted connection a secure one, or refuses it.
pub trait SecureServer: Send + Sync {
    /// Agrees with the client on a session that speaks HTTP/2.
    fn secure(self: Arc<Self>, socket: TcpStream) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// A connection that is ready to be served.
pub(super) struct Secured(Box<dyn Connection>);

/// How long a client may take for its part of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections whose handshake is done and that are not served yet.
const READY: usize = 64;
/// Out of descriptors, most likely: a short pause lets connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `stop`; a client that is slow with its handshake holds nobody up.
pub(super) fn secured(
    listener: TcpListener,
    secure: Arc<dyn SecureServer>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Secured>> {
    let (ready, receiver) = mpsc::channel(READY);
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a proxy");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (ready, secure) = (ready.clone(), secure.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                // Without it everything is only slower.
                socket.set_nodelay(true).ok();
                match timeout(HANDSHAKE_LIMIT, secure.secure(socket)).await {
                    // Nobody takes it only when the server ends.
                    Ok(Ok(connection)) => drop(ready.send(Ok(Secured(connection))).await),
                    Ok(Err(error)) => tracing::info!(%peer, %error, "connection of a proxy refused"),
                    Err(_) => {
                        tracing::info!(%peer, "connection of a proxy closed, its handshake takes too long")
                    }
                }
            }));
        }
    }));
    ReceiverStream::new(receiver)
}

// === impl Secured ===

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
