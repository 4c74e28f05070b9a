//! One pod: its worker, and the pure parts that the worker is made of.
//!
//! A worker is a task that looks at the pod's object and at what runs, does what is missing, reports, and sleeps until
//! either changes. It holds no state that matters: after a restart of the agent another worker sees the same and
//! goes on.

mod backoff;
mod containers;
mod context;
mod decide;
mod env;
mod fields;
mod hooks;
mod launch;
mod network;
mod probe;
mod proxy;
mod report;
mod resources;
mod sources;
mod status;
mod sync;
mod terminate;
mod volumes;
mod worker;

pub(crate) use self::{
    context::{NodeFacts, PodContext},
    worker::{Intent, Worker},
};
