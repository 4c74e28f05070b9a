//! CONNECT that ends here: the endpoint gets what is inside the tunnel.

use std::rc::Rc;

use super::{Exchange, Outcome, account::Attempt, attempt::Try, failure::AttemptError};
use crate::{
    cluster::breaker::Permit,
    http::{body::Sink, head::Span},
    pool::{AcquireError, ClusterLocal, Connection},
    tls::Spoken,
};

impl Exchange<'_> {
    /// Connects to the endpoint, tells the client, and makes a tunnel of the two.
    pub(super) async fn attempt_connect(
        &mut self,
        local: &Rc<ClusterLocal>,
        attempt: &Try<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let mut counted =
            Attempt::start(attempt.cluster, attempt.endpoint, self.cx.worker.index, attempt.started);
        let breaker = attempt.cluster.breaker_of(attempt.forward.priority);
        let Some(permit) = Permit::take(&breaker.connections, breaker.limits.connections) else {
            counted.cells().cx_overflow.add(1);
            return Err(AcquireError::Overflow.into());
        };
        let wanted = self.wanted(local, attempt);
        let connection = match Connection::open(&wanted, permit, Spoken::Opaque).await {
            Ok(connection) => connection,
            Err(error) => {
                counted.failed(error.is_timeout());
                return Err(AcquireError::from(error).into());
            }
        };
        self.response.reset(b"");
        self.response.set_status(200, Span::default());
        counted.answered(self.response);
        self.switch_protocols(Box::new(connection), sink).await
    }
}
