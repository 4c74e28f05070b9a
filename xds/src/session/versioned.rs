//! One resource, as it is sent.

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};

use super::Version;
use crate::{
    any, cause,
    name::ResourceName,
    pb::{
        envoy::{
            config::{cluster::v3::Cluster, route::v3::VirtualHost},
            service::discovery::v3::Resource,
        },
        google::protobuf::Any,
    },
    resource::ResourceType,
};

/// A resource's name. Clones share it: a stream remembers thousands of them.
pub type Name = arcstr::ArcStr;

/// Longer than any process that is told of it: times to live are added to the clock.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// `Resource.resource` on the wire.
const FIELD_RESOURCE: u32 = 2;

/// A resource and its version, encoded once for all streams of both variants.
#[derive(Debug)]
pub struct VersionedResource {
    /// Unique within its type. Of a structured one, the form in which its context parameters are sorted.
    pub name: Name,
    /// Digest of the body, and of how long it lives.
    pub version: Version,
    /// An encoded `envoy.service.discovery.v3.Resource`, which ends with the body.
    wrapped: Bytes,
    /// Where in it the body is, an encoded [`Any`].
    body_at: usize,
    /// Of a cluster: the name under which it asks for its endpoints.
    pub(super) endpoints_name: Option<Name>,
    /// Of a virtual host: what it serves, in lower case.
    domains: Box<[String]>,
    /// How long clients keep it unless they hear of it again.
    ttl: Option<Duration>,
}

/// Names in their order; quickly so if they share their memory.
pub(super) fn compare(one: &Name, other: &Name) -> Ordering {
    if Name::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
}

// === impl VersionedResource ===

impl VersionedResource {
    /// Encodes a resource and gives it its version.
    pub fn new(name: &str, body: &Any) -> Self {
        Self::caused(name, body, None)
    }

    /// The same of a change that is known to have been caused `at` a time. It travels with the resource and is no part
    /// of its content: what is equal but for it is not sent for it.
    pub fn caused(name: &str, body: &Any, at: Option<SystemTime>) -> Self {
        Self::encode(name, body, at, None)
    }

    /// A resource that clients forget after so long if they do not hear of it again, which they do while it is there.
    /// Clients that do not say that they understand this (`xds.config.supports-resource-ttl`) keep it as others.
    ///
    /// It lives for a year at most; a time of zero is none.
    pub fn living(name: &str, body: &Any, ttl: Duration) -> Self {
        Self::encode(name, body, None, (!ttl.is_zero()).then_some(ttl.min(LONGEST_LIFE)))
    }

    fn encode(name: &str, body: &Any, at: Option<SystemTime>, ttl: Option<Duration>) -> Self {
        let name = &*ResourceName::canonical(name);
        let version = ttl.map_or_else(|| Version::of_body(body), |ttl| Version::of_living(body, ttl));
        let head = Resource {
            name: name.to_owned(),
            version: version.to_string(),
            metadata: at.map(cause::to_metadata),
            ..Default::default()
        };
        let length = body.encoded_len();
        let mut wrapped = BytesMut::with_capacity(head.encoded_len() + length + 16);
        // Writing to memory that grows does not fail.
        let _ = head.encode(&mut wrapped);
        encode_key(FIELD_RESOURCE, WireType::LengthDelimited, &mut wrapped);
        encode_varint(length as u64, &mut wrapped);
        let body_at = wrapped.len();
        wrapped.put(body.encode_to_vec().as_slice());
        Self {
            name: name.into(),
            version,
            wrapped: wrapped.freeze(),
            body_at,
            endpoints_name: endpoints_name(body),
            domains: domains(body),
            ttl,
        }
    }

    /// How long clients keep it unless they hear of it again; `None` for as long as nothing else is said.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The protobuf message.
    pub fn body(&self) -> Any {
        // It was encoded here.
        Any::decode(self.encoded_body()).unwrap_or_default()
    }

    /// An encoded `envoy.service.discovery.v3.Resource`.
    pub(crate) fn encoded_resource(&self) -> Bytes {
        self.wrapped.clone()
    }

    /// The body as an encoded `google.protobuf.Any`.
    pub(crate) fn encoded_body(&self) -> Bytes {
        self.wrapped.slice(self.body_at..)
    }

    /// Whether name and body are equal.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.version == other.version
            && self.name == other.name
            && self.encoded_body() == other.encoded_body()
    }

    /// Of a virtual host: what it serves, in lower case.
    pub(super) fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(String::as_str)
    }

    /// Digest of name and version.
    pub(super) fn digest(&self) -> u64 {
        xxhash_rust::xxh64::xxh64(self.name.as_bytes(), self.version.0)
    }
}

/// The name under which a cluster asks for its endpoints.
fn endpoints_name(body: &Any) -> Option<Name> {
    if ResourceType::from_type_url(&body.type_url) != Some(ResourceType::Cluster) {
        return None;
    }
    let cluster: Cluster = any::unpack(body).ok()?;
    let service = cluster.eds_cluster_config?.service_name;
    Some(if service.is_empty() { cluster.name.into() } else { service.into() })
}

/// What a virtual host serves. One that cannot be read serves nothing here; its client will say what is wrong with it.
fn domains(body: &Any) -> Box<[String]> {
    if ResourceType::from_type_url(&body.type_url) != Some(ResourceType::VirtualHost) {
        return Box::default();
    }
    let host: VirtualHost = any::unpack(body).unwrap_or_default();
    host.domains.into_iter().map(|domain| domain.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_once_is_what_both_variants_send() {
        let body = any::pack(&Cluster { name: "web".into(), ..Default::default() });
        let resource = VersionedResource::new("web", &body);
        let wrapped = Resource::decode(resource.encoded_resource()).expect("a resource");
        assert_eq!(wrapped.resource.as_ref(), Some(&body));
        assert_eq!((wrapped.name, wrapped.version), ("web".to_owned(), resource.version.to_string()));
        assert_eq!(Any::decode(resource.encoded_body()).expect("a body"), body);
        assert_eq!(resource.body(), body);
    }

    #[test]
    fn when_a_change_was_caused_travels_and_is_no_change() {
        let body = any::pack(&Cluster { name: "web".into(), ..Default::default() });
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (resource, caused) =
            (VersionedResource::new("web", &body), VersionedResource::caused("web", &body, Some(at)));
        assert!(resource.is_same(&caused) && resource.version == caused.version);
        assert_eq!(caused.encoded_body(), resource.encoded_body());
        let wrapped = Resource::decode(caused.encoded_resource()).expect("a resource");
        assert_eq!(wrapped.metadata.as_ref().and_then(cause::from_metadata), Some(at));
        assert_eq!(wrapped.resource, Some(body));
    }
}
