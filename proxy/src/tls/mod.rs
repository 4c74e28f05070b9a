//! TLS on both sides: who we are, whom we believe, and the sessions themselves.
//!
//! `records` drives one session of rustls over buffers that the thread lends it, `stream` is such a session on a socket,
//! `server` and `client` are the settings of one side in force, `verify` and `names` decide whom to believe, `identity`
//! is what is kept of the peer, `material` what people are shown of our certificates. All of it is rustls with aws-lc-rs; no certificate is parsed by code of our own.

pub(crate) mod buffer;
pub(crate) mod client;
pub(crate) mod identity;
pub(crate) mod material;
pub(crate) mod names;
pub(crate) mod params;
pub(crate) mod records;
pub(crate) mod resolve;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod verify;

pub(crate) use client::{ClientTls, Spoken};
pub(crate) use identity::Identity;
pub(crate) use names::Names;
pub(crate) use server::ServerTls;
