//! Accepting connections on one worker.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Bound, Listener, connection};
use crate::{cluster::breaker::Permit, overload::Action, worker::Worker};

/// Pause after a failed accept: usually descriptors are short, and trying at once would only burn time.
const PAUSE: Duration = Duration::from_millis(100);
/// A listening socket that is to close does so when nothing came for this long…
const QUIET: Duration = Duration::from_millis(50);
/// …and at the latest after this.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Accepts until told to stop; what waits in the socket then is taken in still, since closing would reset it.
pub(crate) async fn run(
    socket: std::net::TcpListener,
    bound: Arc<Bound>,
    worker: Rc<Worker>,
    stop: CancellationToken,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, address = %bound.address, "cannot use a listening socket");
            return;
        }
    };
    // Kept by each connection for its whole life: whoever drains sees the listener end with the last of them, also of those
    // that were accepted a moment ago and did not run yet.
    let bound = Rc::new(bound);
    let take = |stream: TcpStream, peer: SocketAddr| {
        let listener = bound.slot.get();
        if let Some(permits) = admit(&listener, worker.index) {
            let (bound, worker) = (Rc::clone(&bound), Rc::clone(&worker));
            tokio::task::spawn_local(connection::serve(stream, peer, listener, bound, permits, worker));
        }
    };
    loop {
        if worker.shared.overload.is_saturated(Action::StopAcceptingConnections) {
            // The kernel holds them back for as long as that lasts.
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => continue,
                () = stop.cancelled() => break,
            }
        }
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => take(stream, peer),
            // The client left while it waited to be accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                bound.slot.get().stats.at(worker.index).accept_failed.add(1);
                tracing::warn!(%error, address = %bound.address, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // A handshake that is under way when its socket closes would be reset: the socket stays until none came for a moment.
    let told = Instant::now();
    while told.elapsed() < LAST_CALL {
        match tokio::time::timeout(QUIET, socket.accept()).await {
            Ok(Ok((stream, peer))) => take(stream, peer),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let Ok(socket) = socket.into_std() else { return };
    while let Ok((stream, peer)) = socket.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            take(stream, peer);
        }
    }
}

/// What the connection must hold while it is open; `None` if there are as many as there may be.
fn admit(listener: &Listener, worker: usize) -> Option<[Option<Permit>; 2]> {
    let cells = listener.stats.at(worker);
    let Some(own) = listener.gate.enter() else {
        cells.cx_overflow.add(1);
        return None;
    };
    let global = listener.global_gate.as_ref().map(|gate| gate.enter());
    if matches!(global, Some(None)) {
        cells.global_cx_overflow.add(1);
        return None;
    }
    Some([Some(own), global.flatten()])
}
