//! The data plane: a sidecar and edge proxy configured in the language of Envoy.
//!
//! The folders follow a request: [`cli`] starts a [`server`], `config` compiles what it is told, `worker` runs the data
//! threads, `listener` accepts and detects, `http` and `tcp` carry, `route` decides, `balance` picks, `cluster` knows the
//! endpoints, `pool` holds the connections to them, `metrics` and `access_log` keep the accounts, `admin` shows them.
//!
//! Architecture Invariant: data threads share nothing but read-only snapshots and single atomics; they never wait for
//! the control thread, which compiles completely before it swaps.

mod access_log;
mod admin;
mod balance;
pub mod cli;
mod cluster;
mod config;
mod http;
mod listener;
mod load;
mod metrics;
mod pool;
mod route;
pub mod server;
mod tcp;
mod worker;

pub use crate::config::ConfigError;
