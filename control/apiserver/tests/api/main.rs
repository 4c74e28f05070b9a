//! The server as its clients see it, every verb and every refusal, without a socket.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail a test as the tests themselves do")]

mod bad_input;
mod crud;
mod deletion;
mod discovery;
mod kubectl;
mod lists;
mod network;
mod patches;
mod rights;
mod subresources;
mod support;
mod watches;
