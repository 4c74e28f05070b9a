//! Several tries of a request at once: one that takes too long goes on, with another one beside it.
//!
//! # Guarantees
//! * The first answer that the retry policy has nothing against is the client's; the other tries are cancelled then.
//! * Only idempotent requests whose body is all there are hedged, within the number of retries and their budget.
//!
//! # Caveats
//! * Interim responses are not passed on, since the try that they belong to may not be the one that counts.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{
    Exchange, Outcome, Reason, Reply,
    account::Attempt,
    attempt::Try,
    failure::{AttemptError, failure_reply, protocol_error},
    hedge_try::{Answered, HedgedTry, Rest},
    limits::Limits,
    retrying::{Retrying, Verdict},
    upload::Upload,
};
use crate::{
    balance::{Ask, Criteria},
    cluster::{Cluster, endpoint::Endpoint},
    http::{
        body::{Sink, Source},
        h1::framing::BodyLength,
        head::Span,
    },
    pool::ClusterLocal,
    route::{Forward, Route, WeightedCluster, affinity::Affine},
};

/// What all tries of a request have in common.
pub(super) struct Hedged<'h> {
    pub(super) cluster: &'h Arc<Cluster>,
    pub(super) local: &'h Rc<ClusterLocal>,
    pub(super) route: &'h Arc<Route>,
    pub(super) weighted: Option<&'h WeightedCluster>,
    pub(super) forward: &'h Forward,
    pub(super) length: BodyLength,
    pub(super) retrying: &'h Retrying<'h>,
    pub(super) patience: Option<Duration>,
    pub(super) affine: &'h Affine,
    pub(super) criteria: Option<&'h Criteria>,
    pub(super) limits: &'h Limits,
    pub(super) body: Bytes,
    pub(super) http2: bool,
}

/// A try that is under way.
struct Flight<'h> {
    endpoint: Arc<Endpoint>,
    host: Span,
    started: Instant,
    future: Pin<Box<dyn Future<Output = Result<Answered, AttemptError>> + 'h>>,
    late: Rc<Cell<bool>>,
    /// Whether it was asked about already what is to be done since this one takes so long.
    noted: bool,
    /// Whether another one was started for it: it is not retried once more then.
    retried: bool,
}

/// A try that is still to come.
struct Due {
    at: Instant,
    /// Whether the one before took too long.
    after_timeout: bool,
}

/// What happened to a try.
enum Event {
    /// It takes too long.
    Late,
    Ended(Result<Box<Answered>, AttemptError>),
}

// === impl Hedged ===

impl Hedged<'_> {
    /// How long a try may be alone.
    pub(super) fn time_to_answer(&self) -> Option<Duration> {
        let policy = self.forward.retry.as_ref()?;
        policy.per_try_timeout.into_iter().chain(policy.per_try_idle_timeout).min()
    }
}

// === impl Exchange ===

impl<'a> Exchange<'a> {
    /// Sends the request, to more than one endpoint if the first ones take too long.
    pub(super) async fn attempts_hedged(
        &mut self,
        hedged: &Hedged<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, Reply> {
        let retrying = hedged.retrying;
        let mut flights: Vec<Flight<'_>> = Vec::new();
        let mut due = vec![Due { at: Instant::now(), after_timeout: false }];
        let mut tried = Vec::new();
        let mut failure = self.no_endpoint();
        loop {
            let now = Instant::now();
            while let Some(index) = due.iter().position(|due| due.at <= now) {
                let after_timeout = due.swap_remove(index).after_timeout;
                match self.start_try(hedged, &mut tried, after_timeout) {
                    Some(flight) => flights.push(flight),
                    None => {
                        hedged.cluster.stats.at(self.cx.worker.index).cx_none_healthy.add(1);
                        failure = self.no_endpoint();
                    }
                }
            }
            if flights.is_empty() && due.is_empty() {
                return Err(failure);
            }
            let next_due = due.iter().map(|due| due.at).min();
            let (index, event) = tokio::select! {
                biased;
                event = next_event(&mut flights) => event,
                () = sleep_until(next_due.unwrap_or(now)), if next_due.is_some() => continue,
            };
            let after_timeout = matches!(event, Event::Late);
            let verdict = match event {
                Event::Late => {
                    let verdict = retrying.beside();
                    if let Some(flight) = flights.get_mut(index) {
                        flight.retried = matches!(verdict, Verdict::Again(_));
                    }
                    verdict
                }
                Event::Ended(Ok(answered)) => {
                    let flight = flights.swap_remove(index);
                    let Answered { head, rest, counted } = *answered;
                    let mut counted = counted.resume(hedged.cluster, &flight.endpoint);
                    let unwanted = retrying.is_unwanted(&head);
                    let verdict = match unwanted && flight.retried {
                        true => Verdict::Settled,
                        false => retrying.after_answer(&head, true),
                    };
                    let again = matches!(verdict, Verdict::Again(_));
                    if !again && !(unwanted && (!flights.is_empty() || !due.is_empty())) {
                        flights.clear();
                        self.record.retries_exhausted |= verdict == Verdict::Exhausted;
                        *self.response = head;
                        return self.pass_on(hedged, &flight, rest, &mut counted, source, sink).await;
                    }
                    counted.answered(&head);
                    verdict
                }
                Event::Ended(Err(error)) => {
                    let flight = flights.swap_remove(index);
                    let verdict = match &error {
                        AttemptError::Upstream { failure, .. } if !flight.retried => {
                            retrying.after(*failure, true)
                        }
                        _ => Verdict::Settled,
                    };
                    failure = self.reply_to(&error);
                    verdict
                }
            };
            self.record.retries_exhausted |= verdict == Verdict::Exhausted;
            if let Verdict::Again(wait) = verdict {
                due.push(Due { at: Instant::now() + wait, after_timeout });
            }
        }
    }

    /// Starts a try at an endpoint that had none, if there is one.
    fn start_try<'h>(
        &mut self,
        hedged: &'h Hedged<'h>,
        tried: &mut Vec<u64>,
        after_timeout: bool,
    ) -> Option<Flight<'h>>
    where
        'a: 'h,
    {
        let Hedged { cluster, local, forward, criteria, .. } = *hedged;
        let endpoint = self.choose(cluster, local, &Ask { hash: hedged.affine.hash, tried, criteria })?;
        let started = if tried.is_empty() { self.started } else { Instant::now() };
        tried.push(endpoint.id);
        self.record.upstream = Some(Arc::clone(&endpoint));
        self.record.attempts += 1;
        self.announce_attempt(forward.notes, after_timeout);
        // As in Envoy, all of the time: nobody ends a try before.
        self.announce_limits(hedged.limits, None);
        let host = self.upstream_host(forward, hedged.weighted, &endpoint);
        let late = Rc::new(Cell::new(false));
        let cx = self.cx;
        let one = HedgedTry {
            cx,
            hedged,
            endpoint: Arc::clone(&endpoint),
            request: self.request.duplicate(),
            host,
            wants_trailers: self.wants_trailers,
            timer: cx.worker.timers.register([]),
            started,
            late: Rc::clone(&late),
        };
        let future = Box::pin(one.run());
        Some(Flight { endpoint, host, started, future, late, noted: false, retried: false })
    }

    /// Passes the answer on whose head is in `self.response`.
    async fn pass_on(
        &mut self,
        hedged: &Hedged<'_>,
        flight: &Flight<'_>,
        rest: Rest,
        counted: &mut Attempt<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, Reply> {
        self.record.upstream = Some(Arc::clone(&flight.endpoint));
        let attempt = Try {
            cluster: hedged.cluster,
            endpoint: &flight.endpoint,
            route: hedged.route,
            shared_route: hedged.route,
            // They are sent already, as the body is all there.
            copies: None,
            weighted: hedged.weighted,
            forward: hedged.forward,
            host: flight.host,
            length: hedged.length,
            retrying: hedged.retrying,
            replayable: true,
            patience: hedged.patience,
            cookies: &hedged.affine.cookies,
            limits: hedged.limits,
            fresh: false,
            answered: true,
            started: flight.started,
        };
        let result = match rest {
            Rest::H1(connection) => self.go_on_h1(connection, &attempt, counted, source, sink).await,
            Rest::H2 { lease, body, mut upload, refused } => {
                let mut upload = Upload::new(upload.as_mut().map(Pin::new), self.timer, hedged.limits);
                upload.refused = refused;
                let result = self.go_on_h2(body, &attempt, counted, &mut upload, sink).await;
                drop(lease);
                result
            }
        };
        match result {
            Ok(outcome) => Ok(outcome),
            Err(AttemptError::Protocol) if self.record.status == 0 => Err(protocol_error()),
            // Begun and cut off, or the exchange goes on from its start.
            Err(_) => Ok(Outcome::Broken),
        }
    }

    /// What the client is told if this was the last try.
    fn reply_to(&mut self, error: &AttemptError) -> Reply {
        match error {
            AttemptError::Upstream { reply, .. } => failure_reply(*reply),
            AttemptError::Downstream { .. } => {
                self.close = true;
                Reply::new(400, Reason::Http1Codec, "")
            }
            _ => protocol_error(),
        }
    }
}

/// Waits until something happens to one of the tries, and says to which.
async fn next_event(flights: &mut [Flight<'_>]) -> (usize, Event) {
    poll_fn(|cx| {
        for (index, flight) in flights.iter_mut().enumerate() {
            if let Poll::Ready(result) = flight.future.as_mut().poll(cx) {
                return Poll::Ready((index, Event::Ended(result.map(Box::new))));
            }
            if flight.late.get() && !flight.noted {
                flight.noted = true;
                return Poll::Ready((index, Event::Late));
            }
        }
        Poll::Pending
    })
    .await
}
