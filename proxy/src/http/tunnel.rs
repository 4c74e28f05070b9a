//! After a protocol change: bytes both ways.

use std::time::Duration;

use crate::{
    net::Stream,
    pool::Connection,
    tcp::relay,
    worker::timer::{Deadline, Timer},
};

/// Moves bytes between the client and the upstream until both sides are done or silent for `patience`.
///
/// `held` are the bytes that the client sent after its request; what the upstream sent after its 101 is in the
/// connection's buffer.
pub(crate) async fn run(
    client: &Stream,
    held: &[u8],
    upstream: Connection,
    timer: &Timer,
    patience: Option<Duration>,
) {
    // A tunnel may last as long as it is used.
    timer.disarm(Deadline::Response);
    let relayed = relay::run(client, &upstream.stream, held, upstream.recv.data(), timer, patience).await;
    let cells = upstream.life.cells();
    cells.cx_tx_bytes.add(relayed.to_upstream);
    cells.cx_rx_bytes.add(relayed.to_client);
}
