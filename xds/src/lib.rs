//! The xDS protocol, both ends, and the Envoy configuration language.
//!
//! * [`json`] reads Envoy's bootstrap and resources from YAML and JSON and writes them as JSON.
//! * [`session`] holds the protocol itself, state-of-the-world and incremental, client and server, free of I/O.
//! * [`client`] keeps a [`client::ConfigSink`] in step with a server; [`server`] serves [`server::Snapshot`]s to proxies.
//! * [`grpc`] has the frames of unary calls.
//! * [`mod@file`] reads files that hold what a server would send.
//! * [`kept`] is what a client keeps on disk, to start from when its server is away.
//! * [`name`] reads structured names (`xdstp`).
//! * [`load`] carries load reports (LRS) from proxies to the server; [`orca`] reads those of endpoints.
//!
//! Architecture Invariant: this is the only crate that knows the wire forms of Envoy's protobuf types; data plane and
//! mesh use them through [`pb`], [`any`] and [`json`].

pub mod any;
pub mod balancing;
mod cause;
pub mod client;
pub mod file;
pub mod grpc;
pub mod json;
pub mod kept;
pub mod load;
pub mod name;
pub mod orca;
mod resource;
pub mod server;
pub mod session;
pub mod session_cookie;
pub mod transport;

pub use envoy_types::pb;

pub use crate::resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions};

/// A client feature: the client asks for listeners by the address that a connection was going to, and for the clusters
/// that they name, so that it need not be told all of them.
pub const FEATURE_ON_DEMAND: &str = "weft.dev/on-demand-listeners";
