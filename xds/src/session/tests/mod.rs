//! Both ends, alone and against each other.

mod aliases;
mod client;
mod hostile;
mod hosts_by_domain;
mod lives;
mod on_request;
mod pair;
mod server;
mod structured;
mod virtual_hosts;

use std::{sync::Arc, time::Instant};

use prost::Message as _;

use super::VersionedSnapshot;
use crate::{pb::google::protobuf::Any, resource::ResourceType, server::Snapshot};

/// Every resource type has its name in field 1; nothing else matters to the protocol.
#[derive(Clone, PartialEq, prost::Message)]
struct Fake {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "1000")]
    content: String,
}

fn body(type_: ResourceType, name: &str, content: &str) -> Any {
    let fake = Fake { name: name.to_owned(), content: content.to_owned() };
    Any { type_url: type_.type_url().to_owned(), value: fake.encode_to_vec() }
}

fn content(body: &Any) -> String {
    Fake::decode(body.value.as_slice()).expect("made by body()").content
}

fn snapshot(resources: &[(ResourceType, &str, &str)]) -> Arc<VersionedSnapshot> {
    let mut snapshot = Snapshot::default();
    for (type_, name, content) in resources {
        snapshot.resources_mut(*type_).insert((*name).to_owned(), body(*type_, name, content));
    }
    Arc::new(VersionedSnapshot::new(&snapshot, None))
}

/// For who does not care what time it is.
fn now() -> Instant {
    Instant::now()
}
