//! The Kubernetes API, served from the store.
//!
//! [`start`] opens the cluster's certificate authority, fills the watch cache from the store and serves HTTPS. Parts of the same
//! process get a [`kube::Client`] from [`ApiServer::client`] that takes the same way through authorisation and admission
//! without a socket.
//!
//! The tree follows a request: `listener` (connections), `app` (who, what, may they), `wire` (paths, parameters, media
//! types), `handlers` (verbs), `admission` (what the server decides about objects), `storage` (bytes, cache, store).
//!
//! # Guarantees
//! * A write that was answered with success is durable.
//! * No write overwrites another that it has not seen: where the client names no version, the server reads again.
//! * Every failure is a `Status`, also one of the server's own making.
//!
//! # Caveats
//! * Answers are always JSON. Requests may be JSON, YAML or Kubernetes' protobuf.
//! * Server-side apply is refused with 415.

mod admission;
mod aggregate;
mod app;
mod auth;
mod bootstrap;
mod config;
mod context;
mod discovery;
mod handlers;
mod listener;
mod metrics;
mod node_client;
mod openapi;
pub mod pki;
mod server;
mod storage;
mod tls;
mod version;
mod wire;

pub use aggregate::{AggregatedResource, AggregatedService};
pub use config::{CidrError, Config, ServiceCidr};
pub use node_client::NodeClientError;
pub use server::{ApiServer, StartError, start};
pub use storage::FillError;
pub use tls::TlsError;
pub use version::GIT_VERSION;
pub use wire::body::{Body, BoxError};
