//! Responses, and how they get onto the wire.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{BufMut as _, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::Variant;
use crate::{
    pb::envoy::{
        config::core::v3::ControlPlane,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
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
    pub upserts: Vec<Arc<VersionedResource>>,
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
    /// All but the resources.
    head: Vec<u8>,
    variant: Variant,
    resources: std::vec::IntoIter<Arc<VersionedResource>>,
    /// What comes after a resource as it is encoded, and is read as a part of it; by its name.
    additions: BTreeMap<Name, Vec<u8>>,
}

// === impl Outgoing ===

impl Outgoing {
    /// As it goes over a stream of this variant.
    pub(crate) fn encode(self, variant: Variant, control_plane: &str) -> Encoding {
        let type_url = self.type_.type_url().to_owned();
        let control_plane = Some(ControlPlane { identifier: control_plane.to_owned() });
        let head = match variant {
            Variant::Delta => DeltaDiscoveryResponse {
                system_version_info: self.version.to_string(),
                type_url,
                resources: self.unknown.iter().map(without_body).collect(),
                removed_resources: self.removed.iter().map(Name::to_string).collect(),
                nonce: self.nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
            Variant::Sotw => DiscoveryResponse {
                version_info: self.version.to_string(),
                type_url,
                nonce: self.nonce,
                control_plane,
                ..Default::default()
            }
            .encode_to_vec(),
        };
        let addition = |(name, aliases): (Name, Vec<Name>)| {
            let aliases = aliases.iter().map(Name::to_string).collect();
            (name, Resource { aliases, ..Default::default() }.encode_to_vec())
        };
        let additions = self.aliases.into_iter().map(addition).collect();
        Encoding { head, variant, resources: self.upserts.into_iter(), additions }
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

/// How a client is told that there is nothing of this name.
fn without_body(name: &Name) -> Resource {
    Resource { name: name.to_string(), aliases: vec![name.to_string()], ..Default::default() }
}

// === impl Encoding ===

impl Encoding {
    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        let of_resource = |resource: &Arc<VersionedResource>| {
            let length = self.encoded(resource).len() + self.addition(resource).len();
            key_len(FIELD_RESOURCES) + encoded_len_varint(length as u64) + length
        };
        self.head.len() + self.resources.as_slice().iter().map(of_resource).sum::<usize>()
    }

    /// Adds pieces to `chunk` until it has about `enough` bytes; false when nothing is left after them.
    pub(crate) fn write(&mut self, chunk: &mut BytesMut, enough: usize) -> bool {
        chunk.put_slice(&std::mem::take(&mut self.head));
        while chunk.len() < enough {
            let Some(resource) = self.resources.next() else { return false };
            let (encoded, addition) = (self.encoded(&resource), self.addition(&resource));
            encode_key(FIELD_RESOURCES, WireType::LengthDelimited, chunk);
            encode_varint((encoded.len() + addition.len()) as u64, chunk);
            chunk.put_slice(encoded);
            chunk.put_slice(addition);
        }
        !self.resources.as_slice().is_empty()
    }

    fn encoded<'a>(&self, resource: &'a VersionedResource) -> &'a [u8] {
        match self.variant {
            Variant::Delta => resource.encoded_resource(),
            Variant::Sotw => resource.encoded_body(),
        }
    }

    fn addition(&self, resource: &VersionedResource) -> &[u8] {
        self.additions.get(&resource.name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Checks the length that is announced, and that pieces of any size add up to the same.
    #[cfg(test)]
    fn all(&mut self) -> bytes::Bytes {
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
