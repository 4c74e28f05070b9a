//! The data plane: a sidecar and edge proxy configured in the language of Envoy.
//!
//! The folders follow a request: [`cli`] starts a [`server`], `config` compiles what it is told, `worker` runs the data
//! threads, `listener` accepts and detects, `net` is the connection, `http` and `tcp` carry, `route` decides, `filter` has its say, `balance` picks, `cluster` knows the
//! endpoints, `callout` asks them on our own behalf, `pool` holds the connections to them, `metrics` and `access_log` keep the accounts, `admin` shows them, `overload` sheds.
//!
//! Architecture Invariant: data threads share nothing but read-only snapshots and single atomics; they never wait for
//! the control thread, which compiles completely before it swaps.

mod access_log;
mod admin;
mod balance;
mod callout;
pub mod cli;
mod cluster;
mod config;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod listener;
mod load;
mod metrics;
mod net;
mod overload;
mod pool;
mod proxy_protocol;
mod route;
mod runtime;
pub mod server;
mod sources;
mod sys;
mod tcp;
mod tls;
mod worker;

pub use crate::config::ConfigError;
