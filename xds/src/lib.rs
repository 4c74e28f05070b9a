//! The xDS protocol, both ends, and the Envoy configuration language.
//!
//! * [`json`] reads Envoy's bootstrap and resources from YAML and JSON and writes them as JSON.
//! * [`session`] holds the protocol itself, state-of-the-world and incremental, client and server, free of I/O.
//! * [`client`] keeps a [`client::ConfigSink`] in step with a server; [`server`] serves [`server::Snapshot`]s to proxies.
//! * [`load`] carries load reports (LRS) from proxies to the server.
//!
//! Architecture Invariant: this is the only crate that knows the wire forms of Envoy's protobuf types; data plane and
//! mesh use them through [`pb`], [`any`] and [`json`].

pub mod any;
pub mod client;
pub mod json;
pub mod load;
mod resource;
pub mod server;
pub mod session;
pub mod transport;

pub use envoy_types::pb;

pub use crate::resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions};
