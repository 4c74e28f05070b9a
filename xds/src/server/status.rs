//! What is known of a proxy.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{
    pb::envoy::config::core::v3::Node,
    resource::{Rejected, ResourceType},
    session::{
        Version,
        server::{ServerSession, TypeReport},
    },
};

/// What is known of one proxy.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// As the proxy introduced itself.
    pub node: Node,
    /// Open streams. With none, the rest is as of the last one's end.
    pub streams: usize,
    /// Per type that it asked for, on its newest stream.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

/// What is known of one type at one proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TypeStatus {
    /// Version of the type that was sent last; empty before the first response.
    pub sent_version: String,
    /// Version of the type that was acknowledged last.
    pub acked_version: String,
    /// Version of each resource that the proxy is known to have.
    pub acked: BTreeMap<String, String>,
    /// The last refusal, until a later version is acknowledged.
    pub last_nack: Option<Nack>,
}

/// A response that a proxy refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Nack {
    /// The version of the type that was refused.
    pub version: String,
    /// The proxy's words.
    pub message: String,
    /// The resources that it refused, where it tells.
    pub resources: Vec<Rejected>,
    /// When.
    pub at: SystemTime,
}

/// The status of all types of a stream; `refused_at` tells when the last refusal of each was.
pub(super) fn types(
    session: &ServerSession,
    refused_at: &BTreeMap<ResourceType, SystemTime>,
) -> BTreeMap<ResourceType, TypeStatus> {
    let status = |type_| {
        let report = session.report(type_)?;
        let at = refused_at.get(&type_).copied().unwrap_or(SystemTime::UNIX_EPOCH);
        Some((type_, TypeStatus::new(report, at)))
    };
    ResourceType::ALL.into_iter().filter_map(status).collect()
}

// === impl TypeStatus ===

impl TypeStatus {
    fn new(report: TypeReport, refused_at: SystemTime) -> Self {
        let text = |version: Option<Version>| version.map(|version| version.to_string()).unwrap_or_default();
        Self {
            sent_version: text(report.sent),
            acked_version: text(report.acked),
            acked: report.resources.into_iter().map(|(name, version)| (name, version.to_string())).collect(),
            last_nack: report.refusal.map(|refusal| Nack {
                version: refusal.version.to_string(),
                message: refusal.message,
                resources: refusal.resources,
                at: refused_at,
            }),
        }
    }
}
