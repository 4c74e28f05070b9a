//! Telling filters how a request ended.

use std::fmt;

use crate::http::head::Head;

/// Waits for the end of one exchange, which comes however that goes.
pub(crate) trait Ending {
    fn ended(self: Box<Self>, ended: &Ended<'_>);
}

/// How an exchange ended.
pub(crate) struct Ended<'e> {
    /// 0 if no response began.
    pub(crate) status: u16,
    pub(crate) response: &'e Head,
    /// As the trailers say.
    pub(crate) grpc_trailer: Option<u32>,
    /// Whether the client was sent all of it.
    pub(crate) complete: bool,
}

/// Those who wait for the end of an exchange; usually nobody.
#[derive(Default)]
pub(crate) struct Endings(Vec<Box<dyn Ending>>);

// === impl Endings ===

impl Endings {
    pub(crate) fn push(&mut self, ending: Box<dyn Ending>) {
        self.0.push(ending);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn tell(&mut self, ended: &Ended<'_>) {
        for ending in self.0.drain(..) {
            ending.ended(ended);
        }
    }
}

impl fmt::Debug for Endings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endings").field(&self.0.len()).finish()
    }
}

// === impl Ended ===

impl Ended<'_> {
    /// The status of a gRPC response: `None` if it is none, and if it has no status.
    pub(crate) fn grpc_status(&self) -> Option<Option<u32>> {
        let in_head = || std::str::from_utf8(self.response.get(b"grpc-status")?).ok()?.parse().ok();
        (self.status == 200 && self.response.is_grpc()).then(|| in_head().or(self.grpc_trailer))
    }
}
