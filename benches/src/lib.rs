//! The side-by-side harness: the same load on Weft and on its peers, in one run, on the same machine.
//!
//! * [`rows`] says what is measured and what Weft should reach, [`setup`] what the proxies are configured to do in a row.
//! * [`peer`] starts a proxy on one core, with its file below `peers/` filled in by [`template`].
//! * [`measure`] puts [`load`] on it, or wrk or [`h2load`], and reads from [`usage`] what it cost.
//! * [`results`] collects the rounds; [`table`] and [`chart`] show them, and [`readme`] keeps them.
//! * [`propagation`] is the control service with a thousand sidecars, apart from the proxies.
//! * [`profile`] says what the time of a proxy under such a load was spent on.
//!
//! `benches/run` installs what it needs and starts the `compare` binary in a network namespace of its own.

pub mod certificates;
pub mod chart;
pub mod h2load;
pub mod load;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod profile;
pub mod propagation;
pub mod readme;
pub mod results;
pub mod routes;
pub mod rows;
pub mod setup;
pub mod table;
pub mod template;
pub mod usage;
