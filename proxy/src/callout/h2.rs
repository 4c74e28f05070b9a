//! A call over HTTP/2.

use std::pin::pin;

use super::{Answer, Call, Failure, Stuck, h1::broken};
use crate::{
    http::{
        body::{Sink, Source},
        exchange::Attempt,
        h2::{convert, sink::H2Sink, source::H2Source},
        head::{Head, Known},
    },
    pool::{H2Lease, Wanted},
    worker::timer::Deadline,
};

impl Call<'_> {
    pub(super) async fn over_h2(
        &self,
        wanted: &Wanted<'_>,
        counted: &mut Attempt<'_>,
    ) -> Result<Answer, Stuck> {
        let lease = match self.worker.pools.acquire_h2(wanted).await {
            Ok(lease) => lease,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        let (head, bare) = (self.head, self.body.is_empty());
        let length = Some(self.body.len() as u64).filter(|_| !bare && !head.is_grpc());
        let trailers = head.known(Known::Te).is_some();
        let request =
            convert::write_request(head, head.authority(), length, trailers).ok_or(Failure::Protocol)?;
        let Ok((mut answer, stream)) = lease.send(request, bare) else {
            // The connection ended between our choice and now.
            return Err(Stuck::Stale);
        };
        let mut sink = Sink::H2(H2Sink::request(stream, wanted.timer.clone(), None));
        // Beside the answer, which may come before the end of a request that is too much. Errors show up as a missing one.
        let mut writing = pin!(async {
            if !bare {
                let _ = sink.push(self.body).await;
                let _ = sink.finish(Vec::new()).await;
            }
        });
        let mut written = false;
        let response = loop {
            tokio::select! {
                biased;
                () = &mut writing, if !written => written = true,
                response = &mut answer => break response,
            }
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(failed(&error, &lease, counted)),
        };
        counted.cells().cx_tx_bytes.add(self.body.len() as u64);
        lease.refused(false);
        let mut head = Head::default();
        if convert::read_response(&response, &mut head).is_err() {
            return Err(broken(counted));
        }
        counted.answered(&head);
        let body = H2Source::new(response.into_body(), wanted.timer.clone(), Deadline::Response, None);
        Ok(self.collect(head, Source::H2(body), counted).await?)
    }
}

/// What it means that no answer came.
fn failed(error: &h2::Error, lease: &H2Lease, counted: &mut Attempt<'_>) -> Stuck {
    counted.cells().rq_rx_reset.add(1);
    if error.is_remote() {
        // Said by the peer: a GOAWAY fails only streams beyond the last one that it looked at.
        if error.is_go_away() {
            return Stuck::Stale;
        }
        if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            lease.refused(true);
            return Stuck::Stale;
        }
    }
    if error.is_library() {
        return broken(counted);
    }
    counted.failed(false);
    Failure::Reset.into()
}
