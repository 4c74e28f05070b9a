//! Keeps two pods from taking the same port of a node.

use super::{Check, because};
use crate::{
    pod::{HostPort, PodInfo},
    snapshot::Snapshot,
};

const ANY: &str = "0.0.0.0";

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    if pod.host_ports.is_empty() {
        return None;
    }
    Some(Box::new(|node| {
        let mut taken = node.pods.iter().flat_map(|other| &other.host_ports);
        if taken.any(|taken| pod.host_ports.iter().any(|wanted| conflict(wanted, taken))) {
            because("node(s) didn't have free ports for the requested pod ports")
        } else {
            Ok(())
        }
    }))
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == ANY || b.ip == ANY)
}
