//! What is known of a proxy.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::books::{Books, TypeTimes};
use crate::{
    pb::envoy::config::core::v3::Node,
    resource::{Rejected, ResourceType},
    session::{
        Version, VersionedResource,
        server::{RefusedVersion, ServerSession, SyncState, TypeReport, Variant},
    },
};

/// What is known of one proxy.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// As the proxy introduced itself.
    pub node: Arc<Node>,
    /// Open streams. With none, the rest is as of the last one's end.
    pub streams: usize,
    /// Per type that it asked for, on the newest stream on which it did.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

/// What is known of one type at one proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeStatus {
    /// How far the proxy is.
    pub state: SyncState,
    /// Version of the type that was sent last; empty before the first response.
    pub sent_version: String,
    /// Version of the type that was acknowledged last.
    pub acked_version: String,
    /// How many resources the proxy is known to have.
    pub held: usize,
    /// Version of each resource that the proxy is known to have; empty in a summary.
    pub acked: BTreeMap<String, String>,
    /// The last refusal, until a later version is acknowledged.
    pub last_nack: Option<Nack>,
    /// What it refused and has no later version of, by name.
    pub refused: BTreeMap<String, RefusedVersion>,
    /// When the last response was sent.
    pub sent_at: Option<SystemTime>,
    /// When the last acknowledgement came.
    pub acked_at: Option<SystemTime>,
    /// When the last refusal came.
    pub refused_at: Option<SystemTime>,
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

/// A connected proxy with the books of all its types and resources.
#[derive(Debug, Clone)]
pub struct ProxyBooks {
    /// As the proxy introduced itself.
    pub node: Arc<Node>,
    /// When the oldest of its open streams was opened.
    pub connected_at: SystemTime,
    /// What its newest stream speaks.
    pub variant: Variant,
    /// How long the oldest change waits for its answer; `None` if all is answered.
    pub unanswered_for: Option<Duration>,
    /// Per type that it asked for.
    pub types: BTreeMap<ResourceType, TypeStatus>,
    /// Everything that it has, is to have or asked for, by type and name. Empty where only a summary was asked for.
    pub resources: Vec<ResourceStatus>,
}

/// One resource at one proxy.
#[derive(Debug, Clone)]
pub struct ResourceStatus {
    /// Its type.
    pub type_: ResourceType,
    /// Its name.
    pub name: String,
    /// What the proxy is to have; `None` if it is to be without.
    pub wanted: Option<Arc<VersionedResource>>,
    /// The version that it is known to have.
    pub acked: Option<String>,
    /// How far it is.
    pub state: ResourceState,
    /// What it refused of it.
    pub refusal: Option<RefusedVersion>,
}

/// How far a proxy is with one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceState {
    /// It has what it is to have.
    Synced,
    /// It asked for what does not exist, and was told.
    Absent,
    /// It was told nothing of the type yet.
    NotSent,
    /// It has another version, or none, and has not answered yet; or it still has what is to go.
    Stale,
    /// It refused what it is to have.
    Refused,
}

/// The status of all types of a stream; `report` is [`ServerSession::report`] or a summary of it.
pub(super) fn types(
    session: &ServerSession,
    books: &Books,
    report: impl Fn(&ServerSession, ResourceType) -> Option<TypeReport>,
) -> BTreeMap<ResourceType, TypeStatus> {
    let status = |type_| {
        let (report, state) = (report(session, type_)?, session.sync(type_)?);
        Some((type_, type_status(report, state, books.of(type_))))
    };
    ResourceType::ALL.into_iter().filter_map(status).collect()
}

fn type_status(report: TypeReport, state: SyncState, times: TypeTimes) -> TypeStatus {
    let TypeReport { sent, acked, held, resources, refusal, refused } = report;
    let text = |version: Option<Version>| version.map(|version| version.to_string()).unwrap_or_default();
    TypeStatus {
        state,
        held,
        sent_version: text(sent),
        acked_version: text(acked),
        acked: resources.into_iter().map(|(name, version)| (name, version.to_string())).collect(),
        last_nack: refusal.map(|refusal| Nack {
            version: refusal.version.to_string(),
            message: refusal.message,
            resources: refusal.resources,
            at: times.refused.unwrap_or(SystemTime::UNIX_EPOCH),
        }),
        refused,
        sent_at: times.sent,
        acked_at: times.accepted,
        refused_at: times.refused,
    }
}

/// The resources of one type of a stream, in the order of their names; `status` is that of the type.
pub(super) fn resources(
    session: &ServerSession,
    type_: ResourceType,
    status: &TypeStatus,
) -> Vec<ResourceStatus> {
    let (wanted, missing) = session.wanted(type_);
    let mut all: BTreeMap<String, Option<Arc<VersionedResource>>> =
        wanted.into_iter().map(|resource| (resource.name.to_string(), Some(resource))).collect();
    for name in missing.iter().chain(status.acked.keys()).chain(status.refused.keys()) {
        if !all.contains_key(name) {
            all.insert(name.clone(), None);
        }
    }
    let resource = |(name, wanted): (String, Option<Arc<VersionedResource>>)| {
        let acked = status.acked.get(&name).cloned();
        let refusal = status.refused.get(&name).cloned();
        let state = match (&wanted, &acked, &refusal) {
            _ if status.state == SyncState::NotSent => ResourceState::NotSent,
            (Some(wanted), _, Some(refused)) if refused.version == wanted.version => ResourceState::Refused,
            (Some(wanted), Some(acked), _) if *acked == wanted.version.to_string() => ResourceState::Synced,
            (None, None, None) => ResourceState::Absent,
            _ => ResourceState::Stale,
        };
        ResourceStatus { type_, name, wanted, acked, state, refusal }
    };
    all.into_iter().map(resource).collect()
}
