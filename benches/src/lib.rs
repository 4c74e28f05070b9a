//! The side-by-side harness: the same load on Weft and on its peers, in one run, on the same machine.
//!
//! * [`peer`] starts a proxy on one core and knows its configuration.
//! * [`usage`] reads what a process and its children used.
//! * [`table`] turns the rounds into the numbers that are printed.
//!
//! `benches/run` installs what it needs and starts the `compare` binary.

pub mod peer;
pub mod table;
pub mod usage;
