//! The engine with real parts: the `weft-proxy` binary between the clients and servers that people use.
//!
//! Each test has a proxy and ports of its own, so they run side by side. In the dev profile: `cargo build -p weft-proxy`,
//! then `cargo test -p weft-tests --test engine -- NAME`.

mod curl;
mod differential;
mod failures;
mod foreign;
mod grpc;
mod grpc_web;
mod plain;
mod soak;
mod tls;
mod websocket;
