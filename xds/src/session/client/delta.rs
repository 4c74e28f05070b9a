//! The incremental variant.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use super::{
    Asked, ClientSession, Held, Pending, Received, TYPES, aliases, check, held,
    lifetime::{self, Item, Lifetimes},
    whole,
};
use crate::{
    cause,
    pb::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wrapped},
        },
        google::rpc::Status,
    },
    resource::{Rejected, ResourceType, ResourceUpdate, Subscriptions},
    session::nack,
};

/// The client's end, incremental.
#[derive(Debug)]
pub struct DeltaClient {
    node: Node,
    /// Whether the stream's first request went out, with the node in it.
    introduced: bool,
    held: [Held; TYPES],
    /// On this stream, by type; `None` for what was never asked for.
    asked: [Option<Asked>; TYPES],
    pending: Option<Pending>,
    /// Nonces of accepted responses, by type, whose acknowledgement is held back.
    held_back: [Vec<String>; TYPES],
}

// === impl DeltaClient ===

impl DeltaClient {
    /// Without any resource and before the first stream.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            introduced: false,
            held: Default::default(),
            asked: Default::default(),
            pending: None,
            held_back: Default::default(),
        }
    }

    /// Says who we are in the stream's first request.
    fn introduce(&mut self, requests: &mut [DeltaDiscoveryRequest]) {
        if let Some(first) = requests.first_mut().filter(|_| !self.introduced) {
            first.node = Some(self.node.clone());
            self.introduced = true;
        }
    }

    /// A virtual host is asked for by each request that lacks it, and one answer is for those that asked before it: who
    /// asks since is not told anything unless the name is subscribed to anew.
    fn ask_again(&mut self, pending: &Pending, wanted: &Subscriptions) {
        let (type_, removed) = (pending.type_, &pending.removed);
        let Some(asked) = self.asked[type_.index()].as_mut().filter(|_| type_ == ResourceType::VirtualHost)
        else {
            return;
        };
        if let Some(wanted) = wanted.names(type_) {
            removed.iter().filter(|name| wanted.contains(*name)).for_each(|name| {
                asked.names.remove(name);
            });
        }
    }

    /// Brings one type's subscription in line with what is wanted.
    fn subscribe(&mut self, type_: ResourceType, wanted: &Subscriptions) -> Option<DeltaDiscoveryRequest> {
        let now = Asked::from_wanted(type_, wanted);
        let held = &mut self.held[type_.index()];
        let asked = &mut self.asked[type_.index()];
        match (asked.as_ref(), now) {
            (None, None) => None,
            (None, Some(now)) => {
                held.retain(&now);
                let have: HashMap<_, _> =
                    held.resources.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect();
                let request = DeltaDiscoveryRequest {
                    type_url: type_.type_url().to_owned(),
                    resource_names_subscribe: now.spelled(),
                    initial_resource_versions: have,
                    ..Default::default()
                };
                *asked = Some(now);
                Some(request)
            }
            // Only names can change on a stream.
            (Some(before), now) => {
                let now = Asked { all: before.all, ..now.unwrap_or_default() };
                if now.names == before.names {
                    // What is welcome is not told.
                    if now != *before {
                        held.retain(&now);
                        *asked = Some(now);
                    }
                    return None;
                }
                let request = DeltaDiscoveryRequest {
                    type_url: type_.type_url().to_owned(),
                    resource_names_subscribe: now.names.difference(&before.names).cloned().collect(),
                    resource_names_unsubscribe: before.names.difference(&now.names).cloned().collect(),
                    ..Default::default()
                };
                held.retain(&now);
                *asked = Some(now);
                Some(request)
            }
        }
    }
}

impl ClientSession for DeltaClient {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn resume(&mut self, kept: &ResourceUpdate) {
        self.held[kept.type_.index()] = Held::resumed(kept);
    }

    fn open(&mut self, wanted: &Subscriptions) -> Vec<DeltaDiscoveryRequest> {
        self.asked = Default::default();
        self.introduced = false;
        self.pending = None;
        self.held_back = Default::default();
        let mut requests: Vec<_> =
            ResourceType::ALL.into_iter().filter_map(|type_| self.subscribe(type_, wanted)).collect();
        self.introduce(&mut requests);
        requests
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse, now: Instant) -> Received<DeltaDiscoveryRequest> {
        let type_ = ResourceType::from_type_url(&response.type_url);
        let Some((type_, asked)) = type_.and_then(|type_| Some((type_, self.asked[type_.index()].as_ref()?)))
        else {
            return Received::Ignored(response.type_url);
        };
        let type_held = &mut self.held[type_.index()];
        let had = &type_held.resources;
        // Of a host that was asked for and does not exist Envoy is told so by its name, or an alias, without a body.
        let absent: BTreeSet<String> = response
            .resources
            .iter()
            .filter(|one| type_ == ResourceType::VirtualHost && one.resource.is_none())
            // It is, and lives.
            .filter(|one| !had.contains_key(&one.name))
            .flat_map(|one| one.aliases.iter().chain([&one.name]))
            .filter(|name| asked.covers(name))
            .cloned()
            .collect();
        let read = |wrapped: Wrapped| {
            // What is new here may have changed long before anybody asked for it.
            let replaces = had.get(&wrapped.name).is_some_and(|had| had.version != wrapped.version);
            let caused_at = wrapped.metadata.as_ref().filter(|_| replaces).and_then(cause::from_metadata);
            Item::from(wrapped).caused_at(caused_at)
        };
        let items = response.resources.into_iter().map(read).collect();
        let (lives, resources) = Lifetimes::read(type_held, items, &response.system_version_info, now);
        let (mut upserts, mut refused) = match check(type_, resources) {
            Ok(sorted) => sorted,
            Err(rejected) => return refuse(type_, response.nonce, rejected),
        };
        let gone: HashSet<_> = response.removed_resources.iter().map(String::as_str).collect();
        let sent = upserts.iter().map(|resource| &resource.name);
        let mut sent = sent.chain(refused.iter().map(|rejected| &rejected.name));
        if let Some(both) = sent.find(|name| gone.contains(name.as_str())) {
            let rejected = whole(format!("{type_} {both:?} is both sent and removed"));
            return refuse(type_, response.nonce, rejected);
        }
        aliases::keep_asked(&mut upserts, asked);
        upserts.retain(|resource| asked.covers(&resource.name) || !resource.aliases.is_empty());
        refused.retain(|rejected| asked.covers(&rejected.name));
        let mut removed = type_held.with_aliases(response.removed_resources);
        removed.extend(absent);
        let handed_out: HashSet<_> =
            upserts.iter().flat_map(|one| one.aliases.iter().chain([&one.name])).collect();
        let is_known = |name: &str| asked.covers(name) || type_held.resources.contains_key(name);
        removed.retain(|name| is_known(name) && !handed_out.contains(name));
        self.pending = Some(Pending {
            type_,
            nonce: response.nonce,
            version: response.system_version_info.clone(),
            upserts: upserts
                .iter()
                .map(|resource| (resource.name.clone(), held(resource, lives.of(&resource.name))))
                .collect(),
            aliases: upserts
                .iter()
                .filter(|resource| !resource.aliases.is_empty())
                .map(|resource| (resource.name.clone(), resource.aliases.clone()))
                .collect(),
            removed: removed.clone(),
            refused,
        });
        let upserts =
            upserts.into_iter().flat_map(|resource| aliases::hand_out(type_, asked, resource)).collect();
        Received::Update(ResourceUpdate { type_, version: response.system_version_info, upserts, removed })
    }

    fn answer(
        &mut self,
        verdict: Result<(), Vec<Rejected>>,
        wanted: &Subscriptions,
    ) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        if let Some(mut pending) = self.pending.take() {
            let refused = self.held[pending.type_.index()].settle(&mut pending, verdict);
            self.ask_again(&pending, wanted);
            // A server that knows the last nonce only takes what comes after it for stale.
            requests.extend(self.acknowledge(pending.type_));
            let error_detail = (!refused.is_empty()).then(|| nack::to_status(&refused));
            requests.push(response_to(pending.type_, pending.nonce, error_detail));
        }
        requests.extend(ResourceType::ALL.into_iter().filter_map(|type_| self.subscribe(type_, wanted)));
        self.introduce(&mut requests);
        requests
    }

    fn hold_back(&mut self, wanted: &Subscriptions) -> Vec<DeltaDiscoveryRequest> {
        if let Some(mut pending) = self.pending.take_if(|pending| pending.refused.is_empty()) {
            let type_ = pending.type_;
            self.held[type_.index()].settle(&mut pending, Ok(()));
            self.held_back[type_.index()].push(pending.nonce);
        }
        self.answer(Ok(()), wanted)
    }

    fn holds_back(&self, type_: ResourceType) -> bool {
        !self.held_back[type_.index()].is_empty()
    }

    fn acknowledge(&mut self, type_: ResourceType) -> Vec<DeltaDiscoveryRequest> {
        let nonces = std::mem::take(&mut self.held_back[type_.index()]);
        nonces.into_iter().map(|nonce| response_to(type_, nonce, None)).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        lifetime::deadline(&self.held)
    }

    fn expire(&mut self, now: Instant) -> Vec<ResourceUpdate> {
        lifetime::expire(&mut self.held, now)
    }
}

fn refuse(type_: ResourceType, nonce: String, rejected: Rejected) -> Received<DeltaDiscoveryRequest> {
    let error_detail = Some(nack::to_status(std::slice::from_ref(&rejected)));
    Received::Refused { type_, rejected, answer: response_to(type_, nonce, error_detail) }
}

fn response_to(type_: ResourceType, nonce: String, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_.type_url().to_owned(),
        response_nonce: nonce,
        error_detail,
        ..Default::default()
    }
}
