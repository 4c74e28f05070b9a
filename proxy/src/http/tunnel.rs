//! After a protocol change: bytes both ways.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::{pool::Connection, tcp::relay, worker::timer::Timer};

/// Moves bytes between the client and the upstream until both sides are done or silent for `patience`.
///
/// `held` are the bytes that the client sent after its request; what the upstream sent after its 101 is in the
/// connection's buffer.
pub(crate) async fn run(
    client: &TcpStream,
    held: &[u8],
    upstream: Connection,
    timer: &Timer,
    patience: Option<Duration>,
) {
    let counts = relay::run(client, &upstream.stream, held, upstream.recv.data(), timer, patience).await;
    let cells = upstream.life.cells();
    cells.cx_tx_bytes.add(counts.to_upstream);
    cells.cx_rx_bytes.add(counts.to_client);
}
