//! Serving HTTP/2 to a client.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};

use super::{
    LocalExecutor, convert,
    sink::{AbortOnDrop, H2Body, H2Sink},
    source::H2Source,
};
use crate::{
    http::{
        body::{Sink, Source},
        exchange::{Context, Exchange, Outcome, flags},
        h1::framing::BodyLength,
        head::Head,
    },
    worker::timer::{Deadline, Timer},
};

/// How long a connection without requests has to end after its GOAWAY.
const PARTING: Duration = Duration::from_secs(1);

/// A stream of which some bytes were read already.
struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
}

/// Serves `stream`, of which `prefix` was read already, until it ends.
pub(crate) async fn serve(stream: TcpStream, prefix: Bytes, cx: Rc<Context>, timer: &Timer) {
    let settings = &cx.manager.http2;
    let limits = cx.manager.limits;
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(64 * 1024)
        .auto_date_header(false);
    if let Some((interval, timeout)) = settings.keepalive {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    let active = Rc::new(Cell::new(0usize));
    let service = {
        let (cx, active) = (Rc::clone(&cx), Rc::clone(&active));
        service_fn(move |request| {
            let (cx, active) = (Rc::clone(&cx), Rc::clone(&active));
            async move { respond(request, cx, active).await }
        })
    };
    let io = TokioIo::new(Prefixed { prefix, stream });
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut leaving = false;
    let mut idle = true;
    timer.arm(Deadline::Downstream, cx.manager.timeouts.idle);
    let result = std::future::poll_fn(|task| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(task) {
                return Poll::Ready(result);
            }
            let now_idle = active.get() == 0;
            if now_idle != idle {
                idle = now_idle;
                let patience = if leaving { Some(PARTING) } else { cx.manager.timeouts.idle };
                timer.arm(Deadline::Downstream, patience.filter(|_| idle));
            }
            timer.set_idle(idle && !leaving);
            let over = timer.check(Deadline::Downstream, task).is_err();
            if leaving {
                // A client that does not answer the GOAWAY is not waited for.
                return if over { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            if !over && !timer.is_draining() {
                return Poll::Pending;
            }
            // GOAWAY; what is in flight is finished.
            leaving = true;
            timer.arm(Deadline::Downstream, Some(PARTING).filter(|_| idle));
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Err(error) = result {
        cx.manager.stats.at(cx.worker.index).cx_protocol_error.add(1);
        tracing::debug!(%error, "downstream http/2 connection ended");
    }
}

async fn respond(
    request: Request<Incoming>,
    cx: Rc<Context>,
    active: Rc<Cell<usize>>,
) -> Result<Response<H2Body>, Infallible> {
    let (reply, answer) = oneshot::channel();
    // The exchange outlives the response head, so it is a task of its own; whoever holds what it feeds owns it.
    let task = tokio::task::spawn_local(exchange(request, cx, Active::new(active), reply));
    let mut guard = AbortOnDrop(Some(task.abort_handle()));
    match answer.await {
        Ok(mut response) => {
            if let Some(handle) = guard.0.take() {
                match response.body_mut() {
                    body @ H2Body::Streaming { .. } => body.owns(handle),
                    H2Body::Empty | H2Body::Full { .. } => {}
                }
            }
            Ok(response)
        }
        Err(_) => {
            // No response can be given: an aborted body makes hyper reset the stream.
            let (_, pieces) = tokio::sync::mpsc::channel(1);
            Ok(Response::new(H2Body::Streaming { pieces, done: false, task: guard }))
        }
    }
}

async fn exchange(
    request: Request<Incoming>,
    cx: Rc<Context>,
    _active: Active,
    reply: oneshot::Sender<Response<H2Body>>,
) {
    let timer = cx.worker.timers.register(Vec::new());
    let (parts, incoming) = request.into_parts();
    let (mut head, mut response) = (Head::default(), Head::default());
    let expects = Cell::new(false);
    let read = convert::read_request(&parts, &mut head, cx.manager.limits.head_fields);
    drop(parts);
    let patience = cx.manager.timeouts.stream_idle;
    let body = H2Source::new(incoming, timer.clone(), Deadline::Downstream, patience);
    let length = match (body.is_done(), body.exact_length()) {
        (true, _) => BodyLength::Empty,
        (false, Some(length)) => BodyLength::Exact(length),
        (false, None) => BodyLength::Chunked,
    };
    let mut source = Source::H2(body);
    let mut sink = Sink::H2(H2Sink::response(reply, timer.clone(), patience));
    let mut exchange = Exchange::new(&cx, &timer, &mut head, &mut response, &expects);
    match read {
        Ok(()) => match exchange.run(&mut source, &mut sink, length).await {
            // A sink that is dropped before its end aborts the stream, which is what must be seen.
            Outcome::Complete | Outcome::Broken | Outcome::Tunnel(_) => {}
        },
        Err(error) => {
            exchange.refuse(error.status(), flags::DOWNSTREAM_PROTOCOL, &mut source, &mut sink).await
        }
    }
}

/// Counts a stream while it lives.
struct Active(Rc<Cell<usize>>);

impl Active {
    fn new(count: Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

// === impl Prefixed ===

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
