//! The state-of-the-world variant.

use std::{collections::HashSet, time::Instant};

use prost::Message as _;

use super::{
    Asked, ClientSession, Held, Pending, Received, TYPES, check, held,
    lifetime::{self, Item, Lifetimes},
    whole,
};
use crate::{
    any,
    pb::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource as Wrapped},
        },
        google::protobuf::Any,
        google::rpc::Status,
    },
    resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions},
    session::nack,
};

/// The client's end, state of the world.
#[derive(Debug)]
pub struct SotwClient {
    node: Node,
    /// Whether the stream's first request went out, with the node in it.
    introduced: bool,
    held: [Held; TYPES],
    /// On this stream, by type.
    streams: [TypeStream; TYPES],
    pending: Option<Pending>,
}

/// One type on one stream.
#[derive(Debug, Default)]
struct TypeStream {
    /// `None` for what was never asked for.
    asked: Option<Asked>,
    /// Of the last response; empty before the first.
    nonce: String,
    /// That response was accepted, and its acknowledgement is held back.
    held_back: bool,
}

/// What all resource types have in common: their name is field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

// === impl SotwClient ===

impl SotwClient {
    /// Without any resource and before the first stream.
    pub fn new(node: Node) -> Self {
        Self { node, introduced: false, held: Default::default(), streams: Default::default(), pending: None }
    }

    /// Whatever else it says, it answers the last response.
    fn request(&mut self, type_: ResourceType, error_detail: Option<Status>) -> DiscoveryRequest {
        let stream = &mut self.streams[type_.index()];
        stream.held_back = false;
        DiscoveryRequest {
            type_url: type_.type_url().to_owned(),
            version_info: self.held[type_.index()].version.clone(),
            resource_names: stream.asked.as_ref().map(Asked::spelled).unwrap_or_default(),
            response_nonce: stream.nonce.clone(),
            error_detail,
            ..Default::default()
        }
    }

    /// Says who we are in the stream's first request.
    fn introduce(&mut self, requests: &mut [DiscoveryRequest]) {
        if let Some(first) = requests.first_mut().filter(|_| !self.introduced) {
            first.node = Some(self.node.clone());
            self.introduced = true;
        }
    }

    /// Notes what is wanted of a type now; whether that is a change.
    fn subscribe(&mut self, type_: ResourceType, wanted: &Subscriptions) -> bool {
        let now = Asked::from_wanted(type_, wanted).filter(|_| type_.has_sotw());
        let asked = &mut self.streams[type_.index()].asked;
        let now = match (asked.as_ref(), now) {
            (None, None) => return false,
            (None, Some(now)) => now,
            // Only names can change on a stream.
            (Some(before), now) => Asked { all: before.all, ..now.unwrap_or_default() },
        };
        if asked.as_ref() == Some(&now) {
            return false;
        }
        self.held[type_.index()].retain(&now);
        *asked = Some(now);
        true
    }
}

impl ClientSession for SotwClient {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn resume(&mut self, kept: &ResourceUpdate) {
        self.held[kept.type_.index()] = Held::resumed(kept);
    }

    fn open(&mut self, wanted: &Subscriptions) -> Vec<DiscoveryRequest> {
        self.streams = Default::default();
        self.introduced = false;
        self.pending = None;
        let mut requests = Vec::new();
        for type_ in ResourceType::ALL {
            if self.subscribe(type_, wanted) {
                requests.push(self.request(type_, None));
            }
        }
        self.introduce(&mut requests);
        requests
    }

    fn receive(&mut self, response: DiscoveryResponse, now: Instant) -> Received<DiscoveryRequest> {
        let type_ = ResourceType::from_type_url(&response.type_url)
            .filter(|type_| self.streams[type_.index()].asked.is_some());
        let Some(type_) = type_ else { return Received::Ignored(response.type_url) };
        let stream = &mut self.streams[type_.index()];
        stream.nonce.clone_from(&response.nonce);
        let asked = stream.asked.clone().unwrap_or_default();

        let items: Result<Vec<_>, _> =
            response.resources.into_iter().map(|body| unwrap(type_, body)).collect();
        // Those that are but alive are there all the same, and a response of nothing else removes nothing.
        let mut alive: HashSet<String> = HashSet::new();
        let mut only_alive = false;
        let mut lives = Lifetimes::default();
        let sorted = items.and_then(|items| {
            alive.extend(items.iter().filter_map(|item| item.sign_of_life()).map(str::to_owned));
            only_alive = !items.is_empty() && alive.len() == items.len();
            let held = &mut self.held[type_.index()];
            let (read, resources) = Lifetimes::read(held, items, &response.version_info, now);
            lives = read;
            check(type_, resources)
        });
        let (mut upserts, mut refused) = match sorted {
            Ok(sorted) => sorted,
            Err(rejected) => {
                let request = self.request(type_, Some(nack::to_status(std::slice::from_ref(&rejected))));
                return Received::Refused { type_, rejected, answer: request };
            }
        };
        refused.retain(|rejected| asked.covers(&rejected.name));
        upserts.retain(|resource| asked.covers(&resource.name));
        // A response that leaves out what is gone has no place for other names of what is there.
        upserts.iter_mut().for_each(|resource| resource.aliases.clear());
        let resources = &mut self.held[type_.index()].resources;
        let mut removed = Vec::new();
        if type_.is_wildcard_by_default() && !only_alive {
            let sent: HashSet<_> = upserts.iter().map(|resource| resource.name.as_str()).collect();
            let bad: HashSet<_> = refused.iter().map(|rejected| rejected.name.as_str()).collect();
            let gone = |name: &&String| {
                !sent.contains(name.as_str()) && !bad.contains(name.as_str()) && !alive.contains(*name)
            };
            removed.extend(resources.keys().filter(gone).cloned());
        }
        let mut pending_upserts = Vec::new();
        upserts.retain(|resource| {
            let new = held(resource, lives.of(&resource.name));
            match resources.get_mut(&resource.name) {
                Some(old) if old.digest == new.digest => {
                    old.expires = new.expires;
                    false
                }
                _ => {
                    pending_upserts.push((resource.name.clone(), new));
                    true
                }
            }
        });
        self.pending = Some(Pending {
            type_,
            nonce: response.nonce,
            version: response.version_info.clone(),
            upserts: pending_upserts,
            aliases: Vec::new(),
            removed: removed.clone(),
            refused,
        });
        Received::Update(ResourceUpdate { type_, version: response.version_info, upserts, removed })
    }

    fn answer(
        &mut self,
        verdict: Result<(), Vec<Rejected>>,
        wanted: &Subscriptions,
    ) -> Vec<DiscoveryRequest> {
        let mut requests = Vec::new();
        let answered = self.pending.take().map(|mut pending| {
            let type_ = pending.type_;
            let refused = self.held[type_.index()].settle(&mut pending, verdict);
            // One request both answers and says what is wanted.
            self.subscribe(type_, wanted);
            let error_detail = (!refused.is_empty()).then(|| nack::to_status(&refused));
            requests.push(self.request(type_, error_detail));
            type_
        });
        for type_ in ResourceType::ALL {
            if Some(type_) != answered && self.subscribe(type_, wanted) {
                requests.push(self.request(type_, None));
            }
        }
        self.introduce(&mut requests);
        requests
    }

    fn hold_back(&mut self, wanted: &Subscriptions) -> Vec<DiscoveryRequest> {
        if let Some(mut pending) = self.pending.take_if(|pending| pending.refused.is_empty()) {
            let type_ = pending.type_;
            self.held[type_.index()].settle(&mut pending, Ok(()));
            self.streams[type_.index()].held_back = true;
        }
        self.answer(Ok(()), wanted)
    }

    fn holds_back(&self, type_: ResourceType) -> bool {
        self.streams[type_.index()].held_back
    }

    fn acknowledge(&mut self, type_: ResourceType) -> Vec<DiscoveryRequest> {
        if self.holds_back(type_) { vec![self.request(type_, None)] } else { Vec::new() }
    }

    fn deadline(&self) -> Option<Instant> {
        lifetime::deadline(&self.held)
    }

    fn expire(&mut self, now: Instant) -> Vec<ResourceUpdate> {
        lifetime::expire(&mut self.held, now)
    }
}

/// Takes a resource out of its optional wrapper and reads its name.
///
/// What cannot be read cannot be refused by name either, and leaves open what was removed.
pub(super) fn unwrap(type_: ResourceType, body: Any) -> Result<Item, Rejected> {
    if any::type_name(&body.type_url) == "envoy.service.discovery.v3.Resource" {
        let wrapped: Wrapped =
            any::unpack(&body).map_err(|error| whole(format!("a wrapped {type_} is unreadable: {error}")))?;
        return Ok(wrapped.into());
    }
    let named = Named::decode(body.value.as_slice())
        .map_err(|error| whole(format!("a {type_} resource is unreadable: {error}")))?;
    Ok(Item::lasting(Resource {
        name: named.name,
        aliases: Vec::new(),
        version: String::new(),
        body,
        caused_at: None,
    }))
}
