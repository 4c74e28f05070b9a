//! What every Weft process needs, and nothing that only one of them needs.
//!
//! * [`telemetry`] sets up structured logs, once, for a whole process.
//! * [`error`] prints an error with its causes on one line.
//! * [`drain`] lets a process wait until the work it has is finished.
//! * [`backoff`] spaces attempts so that a crowd of clients does not return at once.
//!
//! Shutting down is told with [`tokio_util::sync::CancellationToken`], everywhere: every `run` function takes one
//! and returns soon after it is cancelled.

pub mod backoff;
pub mod drain;
pub mod error;
pub mod telemetry;
