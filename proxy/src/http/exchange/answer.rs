//! What is done with the head of an upstream's response.

use super::{
    Exchange,
    account::Attempt,
    attempt::Try,
    failure::{AttemptError, Instead},
    retrying::Verdict,
    rewrite::ATTEMPT_COUNT,
};
use crate::{
    http::{
        body::Sink, change::Changes, decimal::Decimal, h1::framing::BodyLength, h2::convert, head::Version,
    },
    route::mutate::Scene,
};

impl Exchange<'_> {
    /// What is to be done instead of passing the final response head in `self.response` on, if it is to be thrown away.
    pub(super) fn instead(&mut self, attempt: &Try<'_>) -> Option<Instead> {
        if attempt.answered {
            return self.follow_redirect(attempt).then_some(Instead::Elsewhere);
        }
        match attempt.retrying.after_answer(self.response, attempt.replayable) {
            Verdict::Again(wait) => Some(Instead::Again(wait)),
            verdict => {
                self.record.retries_exhausted = verdict == Verdict::Exhausted;
                self.follow_redirect(attempt).then_some(Instead::Elsewhere)
            }
        }
    }

    /// Passes the response head in `self.response` on, which is not the final one. HTTP/1.0 knows no such thing.
    pub(super) async fn send_interim(&mut self, sink: &mut Sink<'_>) -> Result<(), AttemptError> {
        let _ = self.response.strip_hop_by_hop();
        let sent = match sink {
            Sink::H1(client) if self.version == Version::Http11 => {
                client.interim(self.response, None);
                client.flush().await
            }
            Sink::H1(_) => Ok(()),
            Sink::H2(client) => convert::write_response(self.response, None)
                .map_or(Ok(()), |response| client.interim(response)),
        };
        sent.map_err(|_| AttemptError::Downstream { malformed: false, timeout: false })
    }

    /// Takes note of the response head that is in `self.response`, and makes it the client's; what is to be done to the
    /// body, which is so long.
    pub(super) fn take_response(
        &mut self,
        attempt: &Try<'_>,
        counted: &mut Attempt<'_>,
        length: BodyLength,
    ) -> Changes {
        let latency = counted.answered(self.response);
        let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.record.upstream_millis = Some(millis);
        let _ = self.response.strip_hop_by_hop();
        if !self.cx.manager.suppress_envoy_headers {
            self.response.set(b"x-envoy-upstream-service-time", &Decimal::new(millis));
        }
        let scene = Scene::of_response(self.cx, &self.record, self.request);
        if let Some(weighted) = attempt.weighted {
            weighted.response.apply(self.response, &scene);
        }
        attempt.route.response.apply(self.response, &scene);
        if attempt.forward.notes.in_response {
            self.response.set(ATTEMPT_COUNT, &Decimal::new(u64::from(self.record.attempts)));
        }
        for cookie in attempt.cookies {
            self.response.append(b"set-cookie", cookie);
        }
        self.filter_response(length, None)
    }
}
