//! The node agent: runs pods and their sidecars.
//!
//! [`start`] registers this machine as a node and brings about whatever pods the cluster binds to it, through one of
//! two runtimes: processes of this machine (no root needed) or containers of a Docker Engine. The tree follows a pod:
//!
//! * [`agent`](Agent): the Node object, its Lease, the watch on pods, events.
//! * `pod`: one worker per pod, and the pure parts that it is made of (status, back-off, environment, probes).
//! * `runtime`: the trait that starts containers, and its two implementations.
//! * `sidecar`: bootstrap files and admin endpoint of the proxies; the node's gateway is one of them.
//! * `kubelet_api`: logs and metrics over HTTPS, as a kubelet offers them.
//! * `shim`: the supervisor process of one container in the process runtime.
//!
//! # Guarantees
//! * Workloads outlive the agent. After `kill -9` another agent on the same data directory finds what runs, starts
//!   nothing twice, and removes what belongs to pods that are gone.
//! * One agent per node name and per data directory; a second one is refused.
//! * The cluster is reached only through [`kube::Client`].

mod addresses;
mod agent;
mod config;
mod gateway;
mod http_client;
mod kubelet_api;
mod logs;
mod pod;
mod proc;
mod runtime;
mod shim;
mod sidecar;

pub use self::{
    agent::{Agent, Error, start},
    config::{AdsAddress, AgentConfig, NodeTls, RuntimeChoice, StopMode, Timing, UnknownRuntime},
    runtime::docker::{DockerNetwork, prepare as prepare_docker},
    shim::{pause_main, shim_main},
};
