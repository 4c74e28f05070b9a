//! Where a redirected connection was going (netfilter's `SO_ORIGINAL_DST`).

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The destination before a redirect; `None` if the connection was not redirected.
pub(crate) fn original_dst(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let address = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // A kernel without connection tracking says "no such option": nothing was redirected then.
    address.ok()?.as_socket()
}
