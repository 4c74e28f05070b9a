//! Accepting connections on one worker.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    Bound, Handler, Listener,
    detect::{self, Detected, Verdict},
    matching::Traits,
    original_dst::original_dst,
};
use crate::{
    http::{
        exchange::Context,
        h1, h2,
        io::RecvBuf,
        manager::{Codec, HttpManager},
    },
    tcp::{self, Origin},
    worker::{
        Worker,
        timer::{Deadline, Timer},
    },
};

/// Pause after a failed accept: usually descriptors are short, and trying at once would only burn time.
const PAUSE: Duration = Duration::from_millis(100);

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
    let take = |stream: TcpStream, peer: SocketAddr| {
        tokio::task::spawn_local(connection(stream, peer, bound.slot.get(), Rc::clone(&worker)));
    };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => take(stream, peer),
            Err(error) => {
                tracing::warn!(%error, address = %bound.address, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
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

/// Counts a connection while it lives.
struct Counted {
    listener: Arc<Listener>,
    worker: usize,
}

async fn connection(stream: TcpStream, peer: SocketAddr, listener: Arc<Listener>, worker: Rc<Worker>) {
    let Ok(local) = stream.local_addr() else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let original =
        if listener.original_dst { original_dst(&stream).filter(|address| *address != local) } else { None };
    let listener = match original.filter(|_| listener.use_original_dst) {
        Some(address) => hand_over(&worker, address).unwrap_or(listener),
        None => listener,
    };
    let counted = Counted::new(Arc::clone(&listener), worker.index);
    let drains = vec![Arc::clone(&listener.draining), Arc::clone(&worker.shared.draining)];
    let timer = worker.timers.register(drains);
    let mut recv = RecvBuf::default();
    let application = match detect(&stream, &mut recv, &listener, &timer, &counted).await {
        Some(application) => application,
        None => return,
    };
    let traits = Traits { destination: original.unwrap_or(local), source: peer, application };
    let best = listener
        .chains
        .iter()
        .filter_map(|chain| Some((chain.matches.score(&traits)?, &chain.handler)))
        .max_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, handler)| handler);
    match best.or(listener.default_chain.as_ref()).cloned() {
        None => listener.stats.at(worker.index).no_filter_chain_match.add(1),
        Some(Handler::Tcp(proxy)) => {
            let origin = Origin { peer, local, original };
            tcp::serve(&proxy, &worker, stream, recv.data(), &origin, &timer).await;
        }
        Some(Handler::Http(manager)) => {
            let cx = Context { worker, manager, peer, local, original };
            http(stream, recv, cx, &timer).await;
        }
    }
    drop(counted);
}

/// The protocol that was detected, if any; `None` if the connection is over.
async fn detect(
    stream: &TcpStream,
    recv: &mut RecvBuf,
    listener: &Listener,
    timer: &Timer,
    counted: &Counted,
) -> Option<Option<&'static str>> {
    if !listener.http_inspector {
        return Some(None);
    }
    timer.arm(Deadline::Downstream, listener.detect_timeout);
    let detected = detect::run(stream, recv, timer).await;
    timer.disarm(Deadline::Downstream);
    match detected {
        Detected::Protocol(protocol) => Some(protocol),
        Detected::Gone => None,
        Detected::Timeout => {
            listener.stats.at(counted.worker).pre_cx_timeout.add(1);
            listener.continue_on_timeout.then_some(None)
        }
    }
}

async fn http(stream: TcpStream, mut recv: RecvBuf, cx: Context, timer: &Timer) {
    let cells = |manager: &HttpManager| {
        let stats = Arc::clone(&manager.stats);
        stats.at(cx.worker.index).cx_total.add(1);
        stats
    };
    let stats = cells(&cx.manager);
    let index = cx.worker.index;
    let http2 = match cx.manager.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => {
            timer.arm(Deadline::Downstream, cx.manager.timeouts.header);
            timer.set_idle(true);
            let http2 = loop {
                match detect::verdict(recv.data()) {
                    Verdict::Http2 => break Some(true),
                    Verdict::Unclear
                        if recv.is_empty()
                            || b"PRI * HTTP/2.0".starts_with(&recv.data()[..recv.data().len().min(14)]) => {}
                    _ => break Some(false),
                }
                match recv.fill(&stream, 8 * 1024, timer, Deadline::Downstream).await {
                    Ok(count) if count > 0 => {}
                    _ if recv.is_empty() => break None,
                    _ => break Some(false),
                }
            };
            timer.disarm(Deadline::Downstream);
            timer.set_idle(false);
            let Some(http2) = http2 else {
                stats.at(index).cx_destroy.add(1);
                return;
            };
            http2
        }
    };
    if http2 {
        stats.at(index).cx_http2_total.add(1);
        let prefix = bytes::Bytes::copy_from_slice(recv.data());
        Box::pin(h2::server::serve(stream, prefix, Rc::new(cx), timer)).await;
    } else {
        stats.at(index).cx_http1_total.add(1);
        h1::server::serve(stream, recv, &cx, timer).await;
    }
    stats.at(index).cx_destroy.add(1);
}

/// The listener at an address, or at its port on every address, as Envoy looks it up.
fn hand_over(worker: &Worker, address: SocketAddr) -> Option<Arc<Listener>> {
    let listeners = worker.shared.by_address.load();
    let any = if address.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], address.port()))
    } else {
        SocketAddr::from(([0u16; 8], address.port()))
    };
    listeners.get(&address).or_else(|| listeners.get(&any)).map(|slot| slot.get())
}

// === impl Counted ===

impl Counted {
    fn new(listener: Arc<Listener>, worker: usize) -> Self {
        listener.stats.at(worker).cx_total.add(1);
        Self { listener, worker }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listener.stats.at(self.worker).cx_destroy.add(1);
    }
}
