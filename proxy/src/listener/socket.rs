//! Listening sockets.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Bound, ListenerSlot};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Bound {
    /// Opens one socket for each worker, all at the listener's address.
    pub(crate) fn open(slot: &Arc<ListenerSlot>, workers: usize) -> io::Result<Self> {
        let listener = slot.get();
        let mut address = listener.address;
        // Without SO_REUSEPORT one worker has the only socket.
        let count = if listener.reuse_port { workers } else { 1 };
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = open(address, listener.backlog, listener.reuse_port)?;
            // With port 0 the first decides for all.
            address = socket.local_addr()?;
            sockets.push(Mutex::new(Some(socket)));
        }
        Ok(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), address, slot: Arc::clone(slot), sockets })
    }
}

fn open(address: SocketAddr, backlog: u32, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit it, which spares a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
