//! Where a redirected connection was going (netfilter's `SO_ORIGINAL_DST`).

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::filter::Facts;
use crate::net::Stream;

/// Notes the destination before a redirect, if the connection was redirected.
pub(super) fn run(facts: &mut Facts, stream: &Stream) {
    if let Some(destination) = original_dst(stream.socket()) {
        facts.restore_destination(destination);
    }
}

/// The destination before a redirect; `None` if the kernel does not track connections.
fn original_dst(socket: &TcpStream) -> Option<SocketAddr> {
    let is_ipv4 = socket.local_addr().ok()?.is_ipv4();
    let socket = SockRef::from(socket);
    let address = if is_ipv4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    address.ok()?.as_socket()
}
