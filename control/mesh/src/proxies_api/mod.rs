//! `mesh.weft.dev/v1alpha1`: the proxies and how far each is, for `weft proxies` and `kubectl get proxies`.
//!
//! Read only, and not kept: a proxy is there while it is connected to this control. Lists have a version, and watches go
//! on from there.

mod feed;
mod object;
mod params;
mod service;
mod table;
mod watch;

pub use self::service::{ProxiesBody, ProxiesService, api};

/// The group of the mesh's own API.
pub const GROUP: &str = "mesh.weft.dev";
/// The version of [`GROUP`].
pub const VERSION: &str = "v1alpha1";
