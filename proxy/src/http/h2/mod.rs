//! HTTP/2, through hyper, behind the same heads and bodies as HTTP/1.

pub(crate) mod convert;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod source;

use std::future::Future;

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
