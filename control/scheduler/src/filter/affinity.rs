//! Required affinity and anti-affinity between pods.

use std::collections::HashSet;

use super::{Check, because};
use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
    terms::{Labels, PodTerm},
};

/// A place: topology key and value.
type Place<'a> = (&'a str, &'a str);

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    let closed = closed_to(snapshot, pod);
    if closed.is_empty() && pod.near.is_empty() && pod.apart.is_empty() {
        return None;
    }
    let friends =
        places(snapshot, &pod.near, |terms, other| terms.iter().all(|term| speaks_of(term, snapshot, other)));
    let enemies: Vec<_> = pod
        .apart
        .iter()
        .map(|term| places(snapshot, std::slice::from_ref(term), |_, other| speaks_of(term, snapshot, other)))
        .collect();
    // The first pod of a group that wants to be together has nobody to join, so it may found the group anywhere.
    let founder = friends.is_empty() && pod.near.iter().all(|term| speaks_of(term, snapshot, pod));

    Some(Box::new(move |node| {
        let near = pod.near.iter().all(|term| match place(term, node) {
            Some(place) => founder || friends.contains(&place),
            None => false,
        });
        if !near {
            return because("node(s) didn't match pod affinity rules");
        }
        let apart = pod.apart.iter().zip(&enemies);
        if apart
            .into_iter()
            .any(|(term, enemies)| place(term, node).is_some_and(|place| enemies.contains(&place)))
        {
            return because("node(s) didn't match pod anti-affinity rules");
        }
        if closed.iter().any(|(key, value)| node.labels.get(*key).is_some_and(|own| own == value)) {
            return because("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }))
}

/// The places that running pods keep `pod` away from.
fn closed_to<'a>(snapshot: &'a Snapshot, pod: &PodInfo) -> HashSet<Place<'a>> {
    let mut closed = HashSet::new();
    for node in snapshot.nodes.iter() {
        for term in node.pods.iter().flat_map(|other| &other.apart) {
            if speaks_of(term, snapshot, pod) {
                closed.extend(place_of(term, &node.labels));
            }
        }
    }
    closed
}

/// The places, in the topologies of `terms`, where pods run that `wanted` accepts.
fn places<'a>(
    snapshot: &'a Snapshot,
    terms: &'a [PodTerm],
    wanted: impl Fn(&'a [PodTerm], &PodInfo) -> bool,
) -> HashSet<Place<'a>> {
    let mut found = HashSet::new();
    if terms.is_empty() {
        return found;
    }
    for node in snapshot.nodes.iter() {
        if node.pods.iter().any(|other| wanted(terms, other)) {
            found.extend(terms.iter().filter_map(|term| place_of(term, &node.labels)));
        }
    }
    found
}

fn speaks_of(term: &PodTerm, snapshot: &Snapshot, pod: &PodInfo) -> bool {
    let namespace = &*pod.key.namespace;
    term.matches(namespace, snapshot.namespaces.get(namespace), &pod.labels)
}

fn place<'a>(term: &'a PodTerm, node: &'a NodeInfo) -> Option<Place<'a>> {
    place_of(term, &node.labels)
}

fn place_of<'a>(term: &'a PodTerm, labels: &'a Labels) -> Option<Place<'a>> {
    labels.get(&term.topology_key).map(|value| (term.topology_key.as_str(), value.as_str()))
}
