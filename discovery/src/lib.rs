//! Where endpoints come from, and who tells their names.
//!
//! * [`model`] is the mesh as everybody else sees it: services, their endpoints with health and place, and the pods
//!   behind them, in an immutable [`MeshState`](model::MeshState).
//! * [`kubernetes`] keeps that state up to date from a Kubernetes API server, ours or a real one.
//! * [`dns`] answers the names of services from the state and forwards everything else.

pub mod dns;
pub mod kubernetes;
pub mod model;
