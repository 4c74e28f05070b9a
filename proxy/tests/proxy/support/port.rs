//! Ports that are taken, though nobody listens there.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the kernel's choice that is bound but does not listen: who connects is refused, and nothing else is given
/// it while this lives. A listener of ours may still open it, by its number.
pub(crate) struct HeldPort {
    pub(crate) address: SocketAddr,
    _socket: TcpSocket,
}

impl HeldPort {
    pub(crate) fn bind() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.set_reuseport(true).expect("an option");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        Self { address: socket.local_addr().expect("an address"), _socket: socket }
    }
}
