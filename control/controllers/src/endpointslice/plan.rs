//! How the slices of a Service come to hold the endpoints that it should have, with as few writes as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::desired::{Desired, PortKey, is_headless};
use crate::key::{controller_reference, name, uid};

/// Names the Service of a slice.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Most endpoints in a slice.
const CAPACITY: usize = 100;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// Whether a slice is written by this controller.
pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == CONTROLLER)
}

/// The writes after which the Service's slices hold what is desired.
///
/// Endpoints stay in the slice that they are in. New ones go to slices that are written anyway, then to the fullest with
/// room, then to new slices. A Service without endpoints keeps one empty slice, which says that the Service is known.
pub(super) fn plan(service: &Service, existing: Vec<Arc<EndpointSlice>>, mut desired: Desired) -> Vec<Write> {
    if desired.is_empty() {
        desired.insert(Vec::new(), BTreeMap::new());
    }
    let labels = labels(service);
    let mut names: BTreeSet<String> = existing.iter().map(|slice| name(&slice.metadata).to_owned()).collect();
    let mut groups: BTreeMap<Vec<PortKey>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let mut writes = Vec::new();
    for slice in existing {
        let ports = port_keys(&slice);
        if slice.address_type == "IPv4" && desired.contains_key(&ports) {
            groups.entry(ports).or_default().push(slice);
        } else {
            writes.push(Write::Delete(slice));
        }
    }
    for (ports, endpoints) in desired {
        let slices = groups.remove(&ports).unwrap_or_default();
        writes.extend(fill(service, &labels, &ports, slices, endpoints, &mut names));
    }
    // Endpoints that move from one slice to another should be missing at no time, so deletions come last.
    writes.sort_by_key(|write| matches!(write, Write::Delete(_)));
    writes
}

/// One slice on its way to its new content.
struct Draft {
    original: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn fill(
    service: &Service,
    labels: &BTreeMap<String, String>,
    ports: &[PortKey],
    mut slices: Vec<Arc<EndpointSlice>>,
    mut endpoints: BTreeMap<String, Endpoint>,
    names: &mut BTreeSet<String>,
) -> Vec<Write> {
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut drafts: Vec<Draft> = slices
        .into_iter()
        .map(|original| {
            // What an endpoint is is told by its address; each is taken once, by the first slice that has it.
            let kept: Vec<_> = original
                .endpoints
                .iter()
                .filter_map(|old| endpoints.remove(old.addresses.first()?))
                .collect();
            let changed = kept != original.endpoints || original.metadata.labels.as_ref() != Some(labels);
            Draft { original, endpoints: kept, changed }
        })
        .collect();

    let mut rest = endpoints.into_values().peekable();
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    for draft in &mut drafts {
        while draft.endpoints.len() < CAPACITY && rest.peek().is_some() {
            draft.endpoints.extend(rest.next());
            draft.changed = true;
        }
    }
    let mut writes = Vec::new();
    let all_empty = drafts.iter().all(|draft| draft.endpoints.is_empty()) && rest.peek().is_none();
    let mut kept_one = false;
    for draft in drafts {
        // Of several empty slices one stays if there is nothing else.
        if draft.endpoints.is_empty() && (!all_empty || kept_one) {
            writes.push(Write::Delete(draft.original));
            continue;
        }
        kept_one = true;
        if draft.changed {
            let mut slice = EndpointSlice::clone(&draft.original);
            slice.endpoints = draft.endpoints;
            slice.metadata.labels = Some(labels.clone());
            writes.push(Write::Replace(Box::new(slice)));
        }
    }
    while rest.peek().is_some() || !kept_one {
        kept_one = true;
        let content = rest.by_ref().take(CAPACITY).collect();
        writes.push(Write::Create(Box::new(make(service, labels, ports, content, names))));
    }
    writes
}

/// A new slice. Its name follows from Service, ports and the names that are taken, so that a second attempt, by a
/// controller that has not seen the first one's slice yet, fails instead of making the slice twice.
fn make(
    service: &Service,
    labels: &BTreeMap<String, String>,
    ports: &[PortKey],
    endpoints: Vec<Endpoint>,
    names: &mut BTreeSet<String>,
) -> EndpointSlice {
    let service_name = name(&service.metadata);
    let free = (0_u32..).map(|n| format!("{service_name}-{}", suffix(uid(&service.metadata), ports, n)));
    let slice_name = free.into_iter().find(|name| !names.contains(name)).unwrap_or_default();
    names.insert(slice_name.clone());
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice_name),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints,
        ports: Some(ports.iter().map(PortKey::to_port).collect()),
    }
}

/// Five letters or digits.
fn suffix(uid: &str, ports: &[PortKey], n: u32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = format!("{uid} {n} {ports:?}");
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let letter = |place: u32| {
        let digit = hash / 27_u64.pow(place) % 27;
        char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)])
    };
    (0..5).map(letter).collect()
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

fn port_keys(slice: &EndpointSlice) -> Vec<PortKey> {
    let mut keys: Vec<_> = slice.ports.iter().flatten().map(PortKey::of).collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests;
