//! TLS of the port for proxies.

use std::{io, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use weft_xds::{server::SecureServer, transport::Connection};

/// First byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// Speaks TLS with who speaks it, and plain text with others only where that is allowed.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// Whether a client may do without.
    pub(crate) plain_text: bool,
}

impl SecureServer for Tls {
    fn secure(self: Arc<Self>, socket: TcpStream) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        async move {
            let mut first = [0];
            if socket.peek(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let secured: Box<dyn Connection> = if first[0] == HANDSHAKE {
                Box::new(TlsAcceptor::from(self.config.clone()).accept(socket).await?)
            } else if self.plain_text {
                Box::new(socket)
            } else {
                return Err(io::Error::other("plain text is spoken on loopback only; use TLS here"));
            };
            Ok(secured)
        }
        .boxed()
    }
}
