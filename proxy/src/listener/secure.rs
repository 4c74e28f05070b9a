//! TLS on a connection whose chain wants it.

use std::rc::Rc;

use crate::{
    http::io::RecvBuf,
    metrics::TlsCells,
    net::Stream,
    tls::{Identity, ServerTls},
    worker::timer::Timer,
};

/// The connection as its chain is to see it, with who the client is; `None` if there was no agreement. What was read of
/// the connection already belongs to the handshake, and nothing of it stays in `recv`.
pub(super) async fn secure(
    stream: Stream,
    recv: &mut RecvBuf,
    tls: Option<&ServerTls>,
    timer: &Timer,
    cells: &TlsCells,
) -> Option<(Stream, Option<Rc<Identity>>)> {
    let Some(tls) = tls else { return Some((stream, None)) };
    let Stream::Plain(socket) = stream else { return None };
    let received = std::mem::take(recv);
    let accepted = Box::pin(tls.accept(socket, received.data(), timer, cells)).await;
    let (stream, identity) = accepted?;
    Some((Stream::Tls(Box::new(stream)), Some(Rc::new(identity))))
}
