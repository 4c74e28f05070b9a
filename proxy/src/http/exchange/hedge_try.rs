//! One of several tries of a request that may be under way at once: as far as the head of its answer.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use h2::{RecvStream, client::ResponseFuture};
use http::Response;
use tokio::time::Instant;

use super::{
    Context, MAX_INTERIM,
    account::{Attempt, Parked},
    attempt_h2::failed,
    failure::{AttemptError, FailureReply},
    hedge::Hedged,
};
use crate::{
    cluster::endpoint::Endpoint,
    http::{
        body::{PumpError, Sink},
        h1::{
            client::{ReadError, read_head},
            framing::{self, BodyLength},
            write::Writer,
        },
        h2::{convert, sink::H2Sink},
        head::{Head, Span},
        io::RecvBuf,
    },
    net::Stream,
    pool::{Connection, H2Lease, Wanted},
    proxy_protocol::Addresses,
    route::retry::Failure,
    worker::timer::{Deadline, Timer},
};

/// What a try has to itself, since others are under way.
pub(super) struct HedgedTry<'h> {
    pub(super) cx: &'h Context,
    pub(super) hedged: &'h Hedged<'h>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) request: Head,
    /// In the text of the request.
    pub(super) host: Span,
    pub(super) wants_trailers: bool,
    pub(super) timer: Timer,
    pub(super) started: Instant,
    /// Set when it takes longer than one try should.
    pub(super) late: Rc<Cell<bool>>,
}

/// An answer whose head is there.
pub(super) struct Answered {
    pub(super) head: Head,
    pub(super) rest: Rest,
    pub(super) counted: Parked,
}

/// Where the rest of an answer comes from.
pub(super) enum Rest {
    H1(Box<Connection>),
    H2 {
        /// The place on the connection, kept for as long as the stream.
        lease: H2Lease,
        body: RecvStream,
        /// What of the request was not yet sent.
        upload: Option<Uploading>,
        /// The upstream stopped taking the request.
        refused: bool,
    },
}

pub(super) type Uploading = Pin<Box<dyn Future<Output = Result<(), PumpError>>>>;

// === impl HedgedTry ===

impl HedgedTry<'_> {
    /// Sends the request and waits for the head of its answer. To drop this is to cancel the request.
    pub(super) async fn run(self) -> Result<Answered, AttemptError> {
        let mut fresh = false;
        loop {
            let worker = self.cx.worker.index;
            let mut counted = Attempt::start(self.hedged.cluster, &self.endpoint, worker, self.started);
            let result = if self.hedged.http2 {
                self.ask_h2(&mut counted, fresh).await
            } else {
                self.ask_h1(&mut counted, fresh).await
            };
            match result {
                Ok((head, rest)) => return Ok(Answered { head, rest, counted: counted.park() }),
                // No retry in the sense of the policy: this connection never served this request.
                Err(AttemptError::Stale { .. }) if !fresh => fresh = true,
                Err(AttemptError::Stale { failure }) => {
                    return Err(AttemptError::Upstream { failure, reply: FailureReply::Termination });
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ask_h1(&self, counted: &mut Attempt<'_>, fresh: bool) -> Result<(Head, Rest), AttemptError> {
        let (mut connection, reused) = match self.cx.worker.pools.acquire(&self.wanted(fresh)).await {
            Ok(acquired) => acquired,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        connection.requests = connection.requests.saturating_add(1);
        let mut head = Head::default();
        let Connection { stream, recv, out, .. } = &mut *connection;
        let stream = &*stream;
        let patience = self.hedged.patience;
        let mut writer = Writer::new(stream, out, &self.timer, Deadline::Upstream, patience);
        writer.request(&self.request, self.hedged.length, self.request.get_span(self.host), None);
        // Errors show up as a missing answer, below.
        let _ = writer.push(&self.hedged.body).await;
        let _ = writer.finish(&Vec::new());
        let written = writer.flush().await;
        let touched = writer.touched && written.is_ok();
        counted.cells().cx_tx_bytes.add(self.hedged.body.len() as u64);
        let read = final_head(stream, recv, &mut head, &self.timer);
        match self.within_time(counted, read).await {
            Ok(()) => {}
            Err(ReadError::Invalid) => return Err(broken(counted)),
            Err(ReadError::Closed { any: false }) if reused => {
                let failure = if touched { Failure::Reset } else { Failure::ResetBeforeRequest };
                return Err(AttemptError::Stale { failure });
            }
            Err(ReadError::Closed { .. } | ReadError::Timeout) => {
                let failure = if touched { Failure::Reset } else { Failure::ResetBeforeRequest };
                counted.failed(false);
                counted.cells().rq_rx_reset.add(1);
                return Err(AttemptError::Upstream { failure, reply: FailureReply::Termination });
            }
        }
        match framing::of_response(&head, self.request.method) {
            Ok(_) => Ok((head, Rest::H1(connection))),
            Err(_) => Err(broken(counted)),
        }
    }

    async fn ask_h2(&self, counted: &mut Attempt<'_>, fresh: bool) -> Result<(Head, Rest), AttemptError> {
        let lease = match self.cx.worker.pools.acquire_h2(&self.wanted(fresh)).await {
            Ok(lease) => lease,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        let declared = match self.hedged.length {
            BodyLength::Exact(length) => Some(length),
            _ => None,
        };
        let host = self.request.get_span(self.host);
        let Some(request) = convert::write_request(&self.request, host, declared, self.wants_trailers) else {
            return Err(AttemptError::Downstream { malformed: true, timeout: false });
        };
        let body = self.hedged.body.clone();
        let bare = body.is_empty();
        let Ok((mut answer, stream)) = lease.send(request, bare) else {
            // The connection ended between our choice and now.
            return Err(AttemptError::Stale { failure: Failure::ResetBeforeRequest });
        };
        let mut sink = Sink::H2(H2Sink::request(stream, self.timer.clone(), self.hedged.patience));
        let mut upload: Option<Uploading> = (!bare).then(|| {
            let upload: Uploading = Box::pin(async move {
                sink.push(&body).await.map_err(PumpError::Sink)?;
                sink.finish(Vec::new()).await.map_err(PumpError::Sink)
            });
            upload
        });
        let mut refused = false;
        let waiting = answer_beside(&mut answer, &mut upload, &mut refused);
        let response = match self.within_time(counted, waiting).await {
            Ok(response) => response,
            Err(error) => return Err(failed(&error, &lease, counted)),
        };
        counted.cells().cx_tx_bytes.add(self.hedged.body.len() as u64);
        lease.refused(false);
        let mut head = Head::default();
        if convert::read_response(&response, &mut head).is_err() {
            return Err(broken(counted));
        }
        Ok((head, Rest::H2 { lease, body: response.into_body(), upload, refused }))
    }

    /// Waits for `answer`, and takes note when that is longer than a try should take.
    async fn within_time<T>(&self, counted: &mut Attempt<'_>, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let within = self.hedged.time_to_answer().filter(|_| !self.late.get());
        if let Some(within) = within {
            if let Ok(answer) = tokio::time::timeout(within, answer.as_mut()).await {
                return answer;
            }
            counted.late();
            self.late.set(true);
        }
        answer.await
    }

    fn wanted(&self, fresh: bool) -> Wanted<'_> {
        Wanted {
            cluster: self.hedged.cluster,
            local: self.hedged.local,
            endpoint: &self.endpoint,
            worker: self.cx.worker.index,
            timer: &self.timer,
            client: Addresses { source: self.cx.peer, destination: self.cx.local },
            fresh,
            priority: self.hedged.forward.priority,
        }
    }
}

/// Reads heads up to the final one. Those before it are not passed on: another try may be the one that counts.
async fn final_head(
    stream: &Stream,
    recv: &mut RecvBuf,
    head: &mut Head,
    timer: &Timer,
) -> Result<(), ReadError> {
    for _ in 0..=MAX_INTERIM {
        read_head(stream, recv, head, timer).await?;
        match head.status {
            101 => break,
            100..=199 => {}
            _ => return Ok(()),
        }
    }
    Err(ReadError::Invalid)
}

/// Waits for the head of an answer, with the rest of the request going out beside it.
async fn answer_beside(
    answer: &mut ResponseFuture,
    upload: &mut Option<Uploading>,
    refused: &mut bool,
) -> Result<Response<RecvStream>, h2::Error> {
    poll_fn(|cx| {
        if let Some(uploading) = upload
            && let Poll::Ready(result) = uploading.as_mut().poll(cx)
        {
            *refused = result.is_err();
            *upload = None;
        }
        Pin::new(&mut *answer).poll(cx)
    })
    .await
}

/// Takes note of an answer that is none.
fn broken(counted: &mut Attempt<'_>) -> AttemptError {
    counted.failed(false);
    counted.cells().cx_protocol_error.add(1);
    AttemptError::Protocol
}
