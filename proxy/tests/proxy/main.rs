//! The proxy as a whole: real sockets on both sides, scripted peers.

mod support;

mod admin;
mod drain;
mod health;
mod http1;
mod http2;
mod reload;
mod retries;
mod routes;
mod smuggling;
mod tcp;
mod timeouts;
mod upgrade;
mod validate;
