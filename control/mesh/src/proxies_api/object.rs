//! A proxy's books as an object.

use std::time::SystemTime;

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};
use weft_api::mesh::{METADATA_NODE, ProxyId};
use weft_xds::{
    ResourceType,
    pb::{
        envoy::config::core::v3::{Node, node::UserAgentVersionType},
        google::protobuf::value::Kind,
    },
    server::{ProxyBooks, ResourceState, ResourceStatus, TypeStatus},
    session::server::{SyncState, Variant},
};

use super::{GROUP, VERSION};

/// The object, of which `revision` is the last change; with its resources where the books have them.
pub(super) fn proxy(books: &ProxyBooks, revision: u64) -> Value {
    let ProxyBooks { node, connected_at, variant, unanswered_for, types, resources } = books;
    let connected = time(*connected_at);
    let (client, version) = client(node);
    let types: Vec<Value> = types.iter().map(|(type_, status)| type_status(*type_, status)).collect();
    let mut object = json!({
        "kind": "Proxy",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": { "name": node.id, "creationTimestamp": whole_seconds(*connected_at),
                      "resourceVersion": revision.to_string() },
        "status": {
            "pod": pod(node),
            "node": place(node),
            "client": { "name": client, "version": version },
            "variant": variant_text(*variant),
            "connectedSince": connected,
            "state": worst(books).map(sync_text),
            "unansweredSeconds": unanswered_for.map(|waiting| waiting.as_secs_f64()),
            "types": types,
        },
    });
    if !resources.is_empty() {
        object["status"]["resources"] = resources.iter().map(resource).collect();
    }
    object
}

/// The worst state of any type.
pub(super) fn worst(books: &ProxyBooks) -> Option<SyncState> {
    books.types.values().map(|status| status.state).max()
}

/// `NAMESPACE/NAME` of the pod that the proxy serves, if it serves one.
pub(super) fn pod(node: &Node) -> Option<String> {
    match node.id.parse() {
        Ok(ProxyId::Sidecar { namespace, pod }) => Some(format!("{namespace}/{pod}")),
        _ => None,
    }
}

/// The cluster node on which it runs, as far as it tells.
pub(super) fn place(node: &Node) -> Option<String> {
    if let Ok(ProxyId::Gateway { node }) = node.id.parse() {
        return Some(node);
    }
    match node.metadata.as_ref()?.fields.get(METADATA_NODE)?.kind.as_ref()? {
        Kind::StringValue(name) if !name.is_empty() => Some(name.clone()),
        _ => None,
    }
}

/// The program and its version, as it says.
pub(super) fn client(node: &Node) -> (String, String) {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(text)) => text.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        None => String::new(),
    };
    (node.user_agent_name.clone(), version)
}

pub(super) fn variant_text(variant: Variant) -> &'static str {
    match variant {
        Variant::Delta => "Delta",
        Variant::Sotw => "StateOfTheWorld",
    }
}

/// The service that brings a type, in short: `CDS`.
pub(super) fn short(type_: ResourceType) -> String {
    type_.service().to_uppercase()
}

fn type_status(type_: ResourceType, status: &TypeStatus) -> Value {
    let refused: Vec<Value> = status
        .refused
        .iter()
        .map(|(name, refused)| {
            json!({ "name": name, "version": refused.version.to_string(), "message": refused.reason,
                    "named": refused.named })
        })
        .collect();
    json!({
        "type": short(type_),
        "typeUrl": type_.type_url(),
        "state": sync_text(status.state),
        "sentVersion": status.sent_version,
        "ackedVersion": status.acked_version,
        "sentTime": status.sent_at.map(time),
        "ackedTime": status.acked_at.map(time),
        "refusedTime": status.refused_at.map(time),
        "resources": status.held,
        "refused": refused,
        "lastRefusal": status.last_nack.as_ref().map(|nack| {
            json!({ "version": nack.version, "message": nack.message, "time": time(nack.at) })
        }),
    })
}

fn resource(resource: &ResourceStatus) -> Value {
    json!({
        "type": short(resource.type_),
        "name": resource.name,
        "state": match resource.state {
            ResourceState::Synced => "Synced",
            ResourceState::Absent => "Absent",
            ResourceState::NotSent => "NotSent",
            ResourceState::Stale => "Stale",
            ResourceState::Refused => "Refused",
        },
        "wantedVersion": resource.wanted.as_ref().map(|wanted| wanted.version.to_string()),
        "ackedVersion": resource.acked,
        "refusedVersion": resource.refusal.as_ref().map(|refused| refused.version.to_string()),
        "message": resource.refusal.as_ref().map(|refused| &refused.reason),
    })
}

fn sync_text(state: SyncState) -> &'static str {
    match state {
        SyncState::Synced => "Synced",
        SyncState::NotSent => "NotSent",
        SyncState::Stale => "Stale",
        SyncState::Refused => "Refused",
    }
}

/// With milliseconds, as Kubernetes' `MicroTime` has more than whole seconds.
fn time(at: SystemTime) -> Option<String> {
    let at = Timestamp::try_from(at).ok()?.round(Unit::Millisecond).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn whole_seconds(at: SystemTime) -> Option<String> {
    Some(Timestamp::try_from(at).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
