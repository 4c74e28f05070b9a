//! Support for the end-to-end tests: a cluster as a child process, and the real tools around it.
//!
//! * [`cluster`] starts `weft up` on a fresh data directory and reads what it prints.
//! * [`proxy`] starts `weft-proxy` alone on a bootstrap that [`bootstrap`] puts together; [`upstream`] is a server of our
//!   own behind it.
//! * [`xds_client`] runs Envoy and weft-proxy as clients of a cluster's own control service.
//! * [`control_plane`] tells a proxy over xDS which endpoints a cluster has.
//! * [`servers`] runs nginx and HAProxy, before the proxy and behind it; [`curl`] is the client of that name.
//! * [`kubectl`], [`wrk`], [`prometheus`], [`docker`] and [`python`] run the tools of those names.
//! * [`http`] is a client of our own, for what the tools do not tell: who answered, and when.
//! * [`wait`] polls for a condition; [`process`] looks at and ends processes, by their ids only.
//! * [`record`] keeps measurements, and the tests that cannot run on this machine with their reasons.
//!
//! A test holds [`serial`]'s guard from start to end: every cluster uses the same gateway ports and the same
//! loopback addresses, and timings mean something only when nothing else runs.

pub mod bootstrap;
pub mod cluster;
pub mod control_plane;
pub mod curl;
pub mod docker;
pub mod http;
pub mod kubectl;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod python;
pub mod record;
pub mod servers;
pub mod upstream;
pub mod wait;
pub mod wrk;
pub mod xds_client;

use tokio::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits until no other end-to-end test of this binary runs.
pub async fn serial() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}
