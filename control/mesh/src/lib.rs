//! Mesh control: turns the state of the cluster into what each proxy needs to know, and what the proxies report into
//! metrics.
//!
//! ```text
//!  Services, EndpointSlices, Pods ──► weft_discovery ──► MeshState
//!                                                           │ catalog: resources per service, built once
//!   proxies ──connect──► ADS ◄── snapshot per proxy ◄── publisher
//!      └────load reports─► LRS ──► load ──► metrics API ◄── usage ◄── each node's /metrics/resource
//! ```
//!
//! * [`policy`] reads the wishes that a service's annotations express.
//! * [`resources`] are the pure builders of Envoy v3 resources; [`catalog`] keeps those that all proxies share.
//! * [`proxy`] says what kind of proxy asks, [`snapshot`] what such a proxy gets.
//! * [`proxies_api`] tells what each proxy has and refused; `status` tells it on the Services that it is about, and `leave`
//!   on a pod that is to go that no proxy sends anything to it any more.
//! * [`load`] sums up load reports; [`metrics_api`] serves them, and the usage of CPU and memory, as Kubernetes does.
//!
//! Architecture Invariant: the cluster is reached only through [`kube::Client`], so all of this also runs against a
//! real Kubernetes cluster.

mod admission;
pub mod catalog;
mod leave;
pub mod load;
mod mesh;
pub mod metrics_api;
mod pace;
pub mod policy;
pub mod proxies_api;
pub mod proxy;
mod publisher;
pub mod resources;
mod reviews;
pub mod snapshot;
mod status;
mod telemetry;
mod tls;
mod warnings;

pub use crate::{
    mesh::{Config, Mesh, StartError, start},
    publisher::publish,
};
