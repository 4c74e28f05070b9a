//! Load reports (LRS) from proxies to the server.
//!
//! A proxy gives a [`LoadSource`] to [`report`]; the server gives a [`LoadSink`] to [`LrsService`], which asks every
//! proxy for everything, per endpoint. Both ends also work with peers that are not Weft.
//!
//! # Caveats
//! * What was collected for a report that is lost with its connection is lost too: reports are for decisions about
//!   the moment, not for accounting.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::{net::SocketAddr, time::Duration};

pub use self::{
    client::{LoadSource, ReportConfig, report},
    server::{LoadSink, LrsService},
    wire::{LATENCY_METRIC, from_stats, to_stats},
};
pub use crate::pb::envoy::config::{core::v3::Locality, endpoint::v3::ClusterStats};

/// What one endpoint did since the last report, as its client counted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EndpointLoad {
    /// Address and port; unknown in reports without endpoint granularity.
    pub address: Option<SocketAddr>,
    /// Where it is.
    pub locality: Option<Locality>,
    /// Requests begun.
    pub issued: u64,
    /// Requests that ended well.
    pub succeeded: u64,
    /// Requests that ended badly.
    pub errored: u64,
    /// Requests not yet ended.
    pub in_progress: u64,
    /// Sum of the durations of the ended requests.
    pub latency: Duration,
}

/// What one cluster did since the last report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterLoad {
    /// Its name.
    pub cluster: String,
    /// The name that it asks endpoints by, if another.
    pub service: String,
    /// Requests that reached no endpoint.
    pub dropped: u64,
    /// The time that the report covers. Of no meaning in what a [`LoadSource`] gives.
    pub interval: Duration,
    /// Per endpoint.
    pub endpoints: Vec<EndpointLoad>,
}
