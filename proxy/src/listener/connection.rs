//! One accepted connection: find out what it is, choose its filter chain, hand it over.

use std::{net::SocketAddr, pin::Pin, rc::Rc, sync::Arc};

use tokio::net::TcpStream;

use super::{
    Bound, Handler, Listener,
    detect::{self, Verdict},
    filter::{self, Facts, Look},
    limit::{self, Entered},
    matching::choose,
    secure::secure,
};
use crate::{
    cluster::breaker::Permit,
    filter::rbac::{NetworkRbac, Subject},
    http::{
        exchange::{Beside, Context},
        h1, h2,
        io::RecvBuf,
        manager::{Codec, CountedConnection},
    },
    net::Stream,
    overload::Refusal,
    tcp::{self, Origin},
    tls::Identity,
    worker::{
        Worker,
        timer::{Deadline, Timer},
    },
};

/// Counts a connection while it lives.
struct Counted {
    listener: Arc<Listener>,
    worker: usize,
}

/// What a connection holds for as long as it is open.
#[expect(clippy::redundant_allocation, reason = "the count of the worker is apart from that of the process")]
struct Held {
    _counted: Counted,
    _entered: Box<[Entered]>,
    _admitted: Option<Permit>,
    _permits: [Option<Permit>; 2],
    /// Last: whoever drains waits for it.
    _bound: Rc<Arc<Bound>>,
}

/// How a connection goes on after its beginning.
enum Course {
    /// What was read already is apart: it is gone when the first request is.
    Http1(Box<Http1>, RecvBuf),
    Other(Pin<Box<dyn Future<Output = ()>>>),
}

/// A client that speaks HTTP/1. A connection is this much and no more while nothing is said on it; so nothing that only
/// its beginning needed is here.
struct Http1 {
    client: h1::server::Client,
    _counted: CountedConnection,
    _held: Held,
}

/// Serves a connection until it is over.
///
/// The task keeps its size for as long as the connection is open. So the beginning and each course are on the heap, each
/// for its own time, and no argument stays behind.
#[expect(clippy::redundant_allocation, reason = "the count of the worker is apart from that of the process")]
pub(super) fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<Listener>,
    bound: Rc<Arc<Bound>>,
    permits: [Option<Permit>; 2],
    worker: Rc<Worker>,
) -> impl Future<Output = ()> {
    let beginning = Box::pin(begin(stream, peer, listener, bound, permits, worker));
    async move {
        match beginning.await {
            Some(Course::Http1(connection, recv)) => h1::server::serve(&connection.client, recv).await,
            Some(Course::Other(rest)) => rest.await,
            None => {}
        }
    }
}

/// Looks at a connection and chooses who serves it; `None` if nobody does.
#[expect(clippy::redundant_allocation, reason = "the count of the worker is apart from that of the process")]
async fn begin(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<Listener>,
    bound: Rc<Arc<Bound>>,
    permits: [Option<Permit>; 2],
    worker: Rc<Worker>,
) -> Option<Course> {
    // A socket that listens at one address only needs not ask each connection for it.
    let local = if bound.address.ip().is_unspecified() { stream.local_addr().ok()? } else { bound.address };
    let stream = Stream::from(stream);
    let mut counted = Counted::new(listener, worker.index);
    let admitted = match worker.shared.overload.admit(&worker.random) {
        Ok(permit) => permit,
        Err(refusal) => {
            let cells = counted.listener.stats.at(worker.index);
            match refusal {
                Refusal::Overload => &cells.cx_overload_reject,
                Refusal::TooMany => &cells.global_cx_overflow,
            }
            .add(1);
            return None;
        }
    };
    let drains = |listener: &Listener| [&listener.drain, &worker.shared.drain].map(Arc::clone);
    let mut timer = worker.timers.register(drains(&counted.listener));
    let mut recv = RecvBuf::default();
    let mut facts = Facts::new(peer, local);
    let mut look = Look { stream: &stream, recv: &mut recv, timer: &timer, worker: worker.index };
    if !filter::run(&counted.listener, &mut facts, &mut look).await {
        return None;
    }
    if let Some(address) = facts.original.filter(|_| counted.listener.use_original_dst)
        && let Some(listener) = hand_over(&worker, address, &counted.listener).await
    {
        timer = worker.timers.register(drains(&listener));
        counted = Counted::new(listener, worker.index);
        let mut look = Look { stream: &stream, recv: &mut recv, timer: &timer, worker: worker.index };
        if !filter::run(&counted.listener, &mut facts, &mut look).await {
            return None;
        }
    }
    let listener = Arc::clone(&counted.listener);
    let best = choose(&listener.chains, |chain| &chain.matches, &facts.traits);
    let Some(chain) = best.or(listener.default_chain.as_ref()) else {
        listener.stats.at(worker.index).no_filter_chain_match.add(1);
        return None;
    };
    let entered = limit::enter(&chain.limits, &worker).await?.into_boxed_slice();
    let cells = &listener.stats.at(worker.index).ssl;
    let (stream, tls) = secure(stream, &mut recv, chain.tls.as_deref(), &timer, cells).await?;
    if !chain.rbac.is_empty() && !is_permitted(&chain.rbac, &facts, tls.as_deref(), worker.index) {
        return None;
    }
    let held =
        Held { _counted: counted, _entered: entered, _admitted: admitted, _permits: permits, _bound: bound };
    let id = worker.connection_id();
    let (peer, local, original) = (facts.peer(), facts.local, facts.original);
    match chain.handler.clone() {
        Handler::Tcp(proxy) => Some(Course::Other(Box::pin(async move {
            let _held = held;
            let origin = Origin { peer, local, id, original, tls };
            tcp::serve(&proxy, &worker, stream, recv.data(), &origin, &timer).await;
        }))),
        Handler::Http(manager) => {
            let direct = Some(facts.traits.direct_source).filter(|direct| *direct != peer);
            let server_name = facts.traits.server_name.take().map(String::into_boxed_str);
            let is_plain = original.is_none() && direct.is_none() && server_name.is_none();
            let beside = (!is_plain).then(|| Box::new(Beside { original, direct, server_name }));
            let cx = Context { worker, manager, peer, local, id, beside, tls };
            http(stream, recv, cx, timer, held).await
        }
    }
}

fn is_permitted(rules: &[NetworkRbac], facts: &Facts, tls: Option<&Identity>, worker: usize) -> bool {
    let subject = Subject {
        head: None,
        record: None,
        source: facts.peer().ip(),
        direct: facts.traits.direct_source.ip(),
        forwarded: false,
        local: facts.local,
        tls,
        server_name: facts.traits.server_name.as_deref().unwrap_or_default(),
    };
    rules.iter().all(|rules| rules.permits(&subject, worker))
}

/// Finds out which HTTP it is; `None` if the client left before it said so.
async fn http(stream: Stream, mut recv: RecvBuf, cx: Context, timer: Timer, held: Held) -> Option<Course> {
    let counted = CountedConnection::new(&cx.manager, cx.worker.index);
    let http2 = match cx.manager.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto if let Some(http2) = agreed(&cx) => http2,
        Codec::Auto => detect_http2(&stream, &mut recv, &cx, &timer).await?,
    };
    if http2 {
        counted.cells().cx_http2_total.add(1);
        let prefix = bytes::Bytes::copy_from_slice(recv.data());
        Some(Course::Other(Box::pin(async move {
            let _held = (counted, held);
            h2::server::serve(stream, prefix, Rc::new(cx), &timer).await;
        })))
    } else {
        counted.cells().cx_http1_total.add(1);
        let client = h1::server::Client { stream, cx, timer };
        Some(Course::Http1(Box::new(Http1 { client, _counted: counted, _held: held }), recv))
    }
}

/// Tells the protocol from its first bytes.
async fn detect_http2(stream: &Stream, recv: &mut RecvBuf, cx: &Context, timer: &Timer) -> Option<bool> {
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
        match recv.fill(stream, 8 * 1024, timer, Deadline::Downstream).await {
            Ok(count) if count > 0 => {}
            _ if recv.is_empty() => break None,
            _ => break Some(false),
        }
    };
    timer.disarm(Deadline::Downstream);
    timer.set_idle(false);
    http2
}

/// Whether HTTP/2 was agreed on with the handshake, if that said anything of it.
fn agreed(cx: &Context) -> Option<bool> {
    match cx.tls.as_ref()?.alpn.as_deref()? {
        b"h2" => Some(true),
        b"http/1.1" | b"http/1.0" => Some(false),
        _ => None,
    }
}

/// The listener at an address; one that is not known is asked for, if `from` says so.
async fn hand_over(worker: &Worker, address: SocketAddr, from: &Listener) -> Option<Arc<Listener>> {
    match (known(worker, address), &from.on_demand) {
        (None, Some(settings)) => {
            worker.shared.asks.ask(address, settings).await;
            known(worker, address)
        }
        (listener, _) => listener,
    }
}

/// The listener at an address, or at its port on every address, as Envoy looks it up.
fn known(worker: &Worker, address: SocketAddr) -> Option<Arc<Listener>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function makes.
    fn size_of_future<A, B, C, D, E, F, R: Future>(_: fn(A, B, C, D, E, F) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_is_a_few_hundred_bytes() {
        let (task, connection) = (size_of_future(serve), size_of::<Http1>());
        assert!(task <= 152 && connection <= 232, "{task}, {connection}");
    }
}
