//! Client and server over real sockets, and the server against the real Envoy.
#![expect(clippy::unwrap_used, reason = "tests")]

mod csds;
mod envoy;
mod envoy_types;
mod load;
mod loopback;
mod polling;
mod single;
mod slow;
mod support;
