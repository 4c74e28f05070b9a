//! A call over HTTP/1.

use std::pin::pin;

use super::{Answer, Call, Failure, Stuck};
use crate::{
    http::{
        body::Source,
        exchange::{Attempt, MAX_INTERIM},
        h1::{
            body::BodyReader,
            client::{ReadError, keeps_alive, read_head},
            framing::{self, BodyLength},
            write::Writer,
        },
        head::Head,
    },
    pool::{Connection, Wanted},
    worker::timer::{Deadline, Timer},
};

impl Call<'_> {
    pub(super) async fn over_h1(
        &self,
        wanted: &Wanted<'_>,
        counted: &mut Attempt<'_>,
    ) -> Result<Answer, Stuck> {
        let pools = &self.worker.pools;
        let (mut connection, reused) = match pools.acquire(wanted).await {
            Ok(acquired) => acquired,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        connection.requests = connection.requests.saturating_add(1);
        let (answer, reusable) = self.converse(&mut connection, reused, wanted.timer, counted).await?;
        if reusable && connection.recv.is_empty() {
            pools.release(self.cluster, connection);
        }
        Ok(answer)
    }

    /// The answer, and whether the connection is good for another request.
    async fn converse(
        &self,
        connection: &mut Connection,
        reused: bool,
        timer: &Timer,
        counted: &mut Attempt<'_>,
    ) -> Result<(Answer, bool), Stuck> {
        let Connection { stream, recv, out, .. } = connection;
        let mut writer = Writer::new(stream, out, timer, Deadline::Upstream, None);
        let length = match self.body.len() {
            0 => BodyLength::Empty,
            length => BodyLength::Exact(length as u64),
        };
        writer.request(self.head, length, self.head.authority(), None);
        // Beside the answer, which may come before the end of a request that is too much. Errors show up as a missing one.
        let mut writing = pin!(async {
            let _ = writer.push(self.body).await;
            let _ = writer.finish(&Vec::new());
            writer.flush().await.is_ok()
        });
        let mut written = None;
        let mut head = Head::default();
        let mut interim = 0;
        loop {
            let read = {
                let mut reading = pin!(read_head(stream, recv, &mut head, timer));
                loop {
                    tokio::select! {
                        biased;
                        done = &mut writing, if written.is_none() => written = Some(done),
                        read = &mut reading => break read,
                    }
                }
            };
            match read {
                Ok(()) if head.status == 101 || interim == MAX_INTERIM => return Err(broken(counted)),
                Ok(()) if head.status < 200 => interim += 1,
                Ok(()) => break,
                Err(ReadError::Invalid) => return Err(broken(counted)),
                Err(ReadError::Closed { any: false })
                    if reused && (self.head.method.is_idempotent() || written == Some(false)) =>
                {
                    return Err(Stuck::Stale);
                }
                Err(ReadError::Closed { .. } | ReadError::Timeout) => {
                    counted.failed(false);
                    counted.cells().rq_rx_reset.add(1);
                    return Err(Failure::Reset.into());
                }
            }
        }
        counted.cells().cx_tx_bytes.add(self.body.len() as u64);
        let Ok(length) = framing::of_response(&head, self.head.method) else {
            return Err(broken(counted));
        };
        counted.answered(&head);
        let keep = written == Some(true) && keeps_alive(&head) && length != BodyLength::UntilClose;
        let body = BodyReader::new(stream, recv, length, timer, Deadline::Response, None);
        let answer = self.collect(head, Source::H1(body), counted).await?;
        Ok((answer, keep))
    }
}

/// Takes note of an answer that is none.
pub(super) fn broken(counted: &mut Attempt<'_>) -> Stuck {
    counted.failed(false);
    counted.cells().cx_protocol_error.add(1);
    Failure::Protocol.into()
}
