//! Responses, and how they get onto the wire.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _, Name as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::Variant;
use crate::{
    any,
    pb::{
        envoy::{
            config::core::v3::ControlPlane,
            service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
        },
        google::protobuf::{Any, Duration as ProtoDuration},
    },
    resource::ResourceType,
    session::{Name, Version, VersionedResource},
};

/// `resources` in the responses of both variants.
const FIELD_RESOURCES: u32 = 2;

/// A response to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Of all resources in it.
    pub type_: ResourceType,
    /// Of the type as a whole.
    pub version: Version,
    /// Answered by the client.
    pub nonce: String,
    /// New and changed resources; all of them in state-of-the-world mode for clusters and listeners.
    pub upserts: Arc<Vec<Arc<VersionedResource>>>,
    /// Resources of which the client knows everything, and is only told that they live on.
    pub alive: Vec<Arc<VersionedResource>>,
    /// Whether the client is told how long resources live.
    pub with_ttl: bool,
    /// Names that are gone; not expressed in state-of-the-world mode.
    pub removed: Vec<Name>,
    /// Names that were asked for and stand for nothing, where that is told by a resource without a body: clients wait
    /// for one, and do not take a removal for it.
    pub unknown: Vec<Name>,
    /// The names by which a resource was asked for, beside its own; by that.
    pub aliases: BTreeMap<Name, Vec<Name>>,
}

/// A response on its way onto the wire, piece by piece: its resources are encoded already, and all streams share them.
/// So a client that reads slowly costs a piece, not a copy of its whole world.
#[derive(Debug)]
pub(crate) struct Encoding {
    /// What is left of all but the resources.
    head: Bytes,
    variant: Variant,
    /// What is left of the resource that has been begun, and of what is added to it.
    begun: [Bytes; 2],
    resources: Arc<Vec<Arc<VersionedResource>>>,
    /// As many resources have been begun.
    next: usize,
    /// Bytes that are left of everything.
    left: usize,
    /// By the name of a resource: on delta streams what comes after it as it is encoded, and is read as a part of it; in
    /// the state of the world the resource in a wrapper, instead of what is encoded.
    additions: BTreeMap<Name, Bytes>,
}

// === impl Outgoing ===

impl Outgoing {
    /// As it goes over a stream of this variant.
    pub(crate) fn encode(self, variant: Variant, control_plane: &str) -> Encoding {
        let type_url = self.type_.type_url().to_owned();
        let control_plane = Some(ControlPlane { identifier: control_plane.to_owned() });
        let additions = self.additions(variant);
        let head = match variant {
            Variant::Delta => DeltaDiscoveryResponse {
                system_version_info: self.version.to_string(),
                type_url,
                resources: self.unknown.iter().map(without_body).chain(self.signs_of_life()).collect(),
                removed_resources: self.removed.iter().map(Name::to_string).collect(),
                nonce: self.nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
            Variant::Sotw => DiscoveryResponse {
                version_info: self.version.to_string(),
                type_url,
                resources: self.signs_of_life().map(|alive| any::pack(&alive)).collect(),
                nonce: self.nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
        };
        Encoding::new(head.into(), variant, self.upserts, additions)
    }

    fn signs_of_life(&self) -> impl Iterator<Item = Resource> {
        self.alive.iter().map(|resource| Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            ttl: resource.ttl().map(duration),
            ..Default::default()
        })
    }

    /// See [`Encoding::additions`].
    fn additions(&self, variant: Variant) -> BTreeMap<Name, Bytes> {
        let addition = |resource: &Arc<VersionedResource>| {
            let (ttl, aliases) = (resource.ttl().filter(|_| self.with_ttl), self.aliases.get(&resource.name));
            if ttl.is_none() && aliases.is_none() {
                return None;
            }
            let aliases = aliases.into_iter().flatten().map(Name::to_string).collect();
            let added = Resource { ttl: ttl.map(duration), aliases, ..Default::default() }.encode_to_vec();
            let bytes = match variant {
                Variant::Delta => added,
                Variant::Sotw => {
                    let value = [&resource.encoded_resource(), added.as_slice()].concat();
                    Any { type_url: Resource::type_url(), value }.encode_to_vec()
                }
            };
            Some((resource.name.clone(), bytes.into()))
        };
        if !self.with_ttl && self.aliases.is_empty() {
            return BTreeMap::new();
        }
        self.upserts.iter().filter_map(addition).collect()
    }

    /// What the client gets over a delta stream.
    #[cfg(test)]
    pub(crate) fn into_delta(self, control_plane: &str) -> DeltaDiscoveryResponse {
        let mut encoding = self.encode(Variant::Delta, control_plane);
        DeltaDiscoveryResponse::decode(encoding.all()).expect("what is encoded is a response")
    }

    /// What the client gets over a state-of-the-world stream.
    #[cfg(test)]
    pub(crate) fn into_sotw(self, control_plane: &str) -> DiscoveryResponse {
        let mut encoding = self.encode(Variant::Sotw, control_plane);
        DiscoveryResponse::decode(encoding.all()).expect("what is encoded is a response")
    }
}

fn duration(duration: Duration) -> ProtoDuration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    ProtoDuration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default() }
}

/// How many bytes precede a resource of this length.
fn prefix_len(length: usize) -> usize {
    key_len(FIELD_RESOURCES) + encoded_len_varint(length as u64)
}

/// How a client is told that there is nothing of this name.
fn without_body(name: &Name) -> Resource {
    Resource { name: name.to_string(), aliases: vec![name.to_string()], ..Default::default() }
}

// === impl Encoding ===

impl Encoding {
    fn new(
        head: Bytes,
        variant: Variant,
        resources: Arc<Vec<Arc<VersionedResource>>>,
        additions: BTreeMap<Name, Bytes>,
    ) -> Self {
        let mut encoding =
            Self { head, variant, begun: Default::default(), resources, next: 0, left: 0, additions };
        let of_resource = |resource: &Arc<VersionedResource>| {
            let length = encoding.parts(resource).iter().map(Bytes::len).sum();
            prefix_len(length) + length
        };
        let resources: usize = encoding.resources.iter().map(of_resource).sum();
        encoding.left = encoding.head.len() + resources;
        encoding
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    /// Fills `chunk` up to `full` bytes, or to some bytes less where the length of a resource would not fit; false when
    /// nothing is left.
    pub(crate) fn write(&mut self, chunk: &mut BytesMut, full: usize) -> bool {
        let before = chunk.len();
        loop {
            for part in [&mut self.head].into_iter().chain(&mut self.begun) {
                let room = full.saturating_sub(chunk.len());
                chunk.put(part.split_to(part.len().min(room)));
            }
            let Some(resource) = self.resources.get(self.next) else { break };
            let parts = self.parts(resource);
            let length = parts.iter().map(Bytes::len).sum();
            if !self.begun.iter().all(Bytes::is_empty) || chunk.len() + prefix_len(length) > full {
                break;
            }
            encode_key(FIELD_RESOURCES, WireType::LengthDelimited, chunk);
            encode_varint(length as u64, chunk);
            self.begun = parts;
            self.next += 1;
        }
        self.left -= chunk.len() - before;
        self.left > 0
    }

    /// The resource, and what is added to it or stands for it.
    fn parts(&self, resource: &VersionedResource) -> [Bytes; 2] {
        let addition = self.additions.get(&resource.name).cloned();
        let encoded = match self.variant {
            Variant::Delta => resource.encoded_resource(),
            Variant::Sotw if addition.is_some() => Bytes::new(),
            Variant::Sotw => resource.encoded_body(),
        };
        [encoded, addition.unwrap_or_default()]
    }

    /// Checks the length that is announced, and that pieces of any size add up to the same.
    #[cfg(test)]
    fn all(&mut self) -> Bytes {
        let length = self.len();
        let mut all = BytesMut::new();
        loop {
            let mut chunk = BytesMut::new();
            let more = self.write(&mut chunk, 10);
            all.extend_from_slice(&chunk);
            if !more {
                break;
            }
        }
        assert_eq!(all.len(), length);
        all.freeze()
    }
}
