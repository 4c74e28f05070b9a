//! What the mesh's names mean: a pure function from the state and a question to an answer.
//!
//! Follows the Kubernetes DNS-based service discovery specification 1.1.0.

use std::{net::IpAddr, time::Duration};

use hickory_proto::rr::{
    LowerName, Name, RData, Record, RecordType,
    rdata::{CNAME, NS, SOA, SRV, TXT},
};

use crate::model::{Endpoint, Health, MeshState, Service, ServiceId, ServiceKind, Transport};

const SCHEMA_VERSION: &str = "1.1.0";
/// Priority and weight of all SRV records: there is nothing to prefer.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;

/// The names of one cluster.
#[derive(Debug)]
pub(super) struct Zone {
    domain: Name,
    /// The labels of `domain`, in lower case.
    suffix: Vec<String>,
    default_namespace: String,
    ttl: u32,
}

/// What there is to say about a name and a type.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The records, and others that the asker will need next.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name is another name for one outside of the cluster; the records are to be found there.
    Alias { record: Box<Record>, target: Name },
    /// The name exists and has no such record.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not a name of the mesh.
    Elsewhere,
}

// === impl Zone ===

impl Zone {
    pub(super) fn new(mut domain: Name, default_namespace: String, ttl: Duration) -> Self {
        domain.set_fqdn(true);
        let domain = domain.to_lowercase();
        let suffix = labels(&domain).unwrap_or_default();
        let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
        Self { domain, suffix, default_namespace, ttl }
    }

    /// Whether `name` must never leave the cluster: it is below our domain, or ends in `svc`, the end of our short
    /// names, which is no top-level domain.
    pub(super) fn owns(&self, name: &LowerName) -> bool {
        LowerName::new(&self.domain).zone_of(name)
            || labels(name).is_some_and(|labels| labels.last().is_some_and(|last| last == "svc"))
    }

    /// The answer about `name`.
    pub(super) fn answer(&self, state: &MeshState, name: &LowerName, kind: RecordType) -> Answer {
        // Ours are host names; one with other bytes in it can only exist elsewhere.
        let Some(labels) = labels(name) else {
            return if self.owns(name) { Answer::NoName } else { Answer::Elsewhere };
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let question = Question { zone: self, state, name: name.into(), kind };
        if let Some(relative) = strip_suffix(&labels, &self.suffix) {
            return question.in_domain(relative);
        }
        question.short(&labels)
    }

    /// The start of authority that goes with a negative answer about `name`: its minimum is how long the absence may
    /// be cached.
    pub(super) fn soa(&self, name: &LowerName, version: u64) -> Record {
        let name = Name::from(name);
        let owner = if self.domain.zone_of(&name) {
            self.domain.clone()
        } else {
            // Resolvers cache an absence only if the owner is at or above the name: each short name is its own zone,
            // apart from those below `svc`.
            match name.iter().next_back() {
                Some(b"svc") => name.trim_to(1),
                _ => name,
            }
        };
        self.record(owner, RData::SOA(self.authority(version)))
    }

    fn authority(&self, version: u64) -> SOA {
        let server = self.below(&["dns", "ns"]).unwrap_or_else(|| self.domain.clone());
        let contact = self.below(&["hostmaster"]).unwrap_or_else(|| self.domain.clone());
        // Serial numbers wrap around by definition (RFC 1982).
        let serial = (version & u64::from(u32::MAX)) as u32;
        SOA::new(server, contact, serial, 7200, 1800, 86400, self.ttl)
    }

    fn record(&self, owner: Name, data: RData) -> Record {
        Record::from_rdata(owner, self.ttl, data)
    }

    fn below(&self, labels: &[&str]) -> Option<Name> {
        name_of(labels)?.append_domain(&self.domain).ok()
    }

    /// The full name of a service.
    fn service_name(&self, id: &ServiceId) -> Option<Name> {
        self.below(&[&id.name, &id.namespace, "svc"])
    }
}

/// One question about one state.
struct Question<'a> {
    zone: &'a Zone,
    state: &'a MeshState,
    name: Name,
    kind: RecordType,
}

// === impl Question ===

impl Question<'_> {
    /// `relative` are the labels before the cluster's domain.
    fn in_domain(&self, relative: &[&str]) -> Answer {
        match relative {
            [] => self.apex(),
            ["dns-version"] if self.kind == RecordType::TXT => {
                self.one(RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()])))
            }
            ["dns-version"] => Answer::NoData,
            ["ns"] => Answer::NoData,
            // Where this server is, is known by who found it; the specification asks only that the name exists.
            ["dns", "ns"] => Answer::NoData,
            [rest @ .., "svc"] => self.in_services(rest),
            _ => Answer::NoName,
        }
    }

    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => self.one(RData::SOA(self.zone.authority(self.state.version))),
            RecordType::NS => match self.zone.below(&["dns", "ns"]) {
                Some(server) => self.one(RData::NS(NS(server))),
                None => Answer::NoData,
            },
            _ => Answer::NoData,
        }
    }

    /// `rest` are the labels before `svc`.
    fn in_services(&self, rest: &[&str]) -> Answer {
        match rest {
            [] => Answer::NoData,
            [namespace] if self.state.has_namespace(namespace) => Answer::NoData,
            [_] => Answer::NoName,
            [prefix @ .., name, namespace] => {
                self.in_service(name, namespace, prefix).unwrap_or(Answer::NoName)
            }
        }
    }

    /// A name that does not end in the cluster's domain.
    fn short(&self, labels: &[&str]) -> Answer {
        if let [rest @ .., "svc"] = labels {
            return self.in_services(rest);
        }
        if let [prefix @ .., name, namespace] = labels
            && let Some(answer) = self.in_service(name, namespace, prefix)
        {
            return answer;
        }
        if let [prefix @ .., name] = labels
            && let Some(answer) = self.in_service(name, &self.zone.default_namespace, prefix)
            && (prefix.is_empty() || answer != Answer::NoName)
        {
            return answer;
        }
        Answer::Elsewhere
    }

    /// `prefix` are the labels before the service's name. `None` if there is no such service.
    fn in_service(&self, name: &str, namespace: &str, prefix: &[&str]) -> Option<Answer> {
        let service = self.state.services.get(&ServiceId::new(namespace, name))?;
        Some(match (prefix, &service.kind) {
            ([], ServiceKind::External(target)) => self.alias(target),
            (_, ServiceKind::External(_)) => Answer::NoName,
            ([], ServiceKind::Virtual(addresses)) => match self.kind {
                RecordType::SRV => self.service_records(service, |_| true),
                _ => self.addresses(addresses.iter().copied()),
            },
            ([], ServiceKind::Headless) => {
                let endpoints: Vec<&Endpoint> = self.published(service).collect();
                match self.kind {
                    // The specification wants a headless service without endpoints not to exist.
                    _ if endpoints.is_empty() => Answer::NoName,
                    RecordType::SRV => self.service_records(service, |_| true),
                    _ => self.addresses(endpoints.iter().map(|endpoint| endpoint.address)),
                }
            }
            ([port, transport], _) if port.starts_with('_') => self.named_port(service, port, transport),
            ([transport], _) if transport.starts_with('_') => {
                let transport = transport_of(transport);
                match service.ports.iter().any(|port| Some(port.transport) == transport) {
                    true => Answer::NoData,
                    false => Answer::NoName,
                }
            }
            ([host], _) => {
                let of_host = |endpoint: &&Endpoint| host_label(endpoint) == *host;
                let addresses: Vec<IpAddr> =
                    self.published(service).filter(of_host).map(|endpoint| endpoint.address).collect();
                match addresses.is_empty() {
                    true => Answer::NoName,
                    false => self.addresses(addresses.into_iter()),
                }
            }
            _ => Answer::NoName,
        })
    }

    fn named_port(&self, service: &Service, port: &str, transport: &str) -> Answer {
        let (name, transport) = (port.trim_start_matches('_'), transport_of(transport));
        let wanted = |found: &str, of: Transport| found == name && Some(of) == transport;
        if name.is_empty() || !service.ports.iter().any(|port| wanted(&port.name, port.transport)) {
            return Answer::NoName;
        }
        match self.kind {
            RecordType::SRV | RecordType::ANY => {
                self.service_records(service, |port| wanted(&port.name, port.transport))
            }
            _ => Answer::NoData,
        }
    }

    /// SRV records of the ports that `wanted` picks, with the addresses of their targets.
    fn service_records(
        &self,
        service: &Service,
        wanted: impl Fn(&crate::model::ServicePort) -> bool,
    ) -> Answer {
        let mut answers = Vec::new();
        let mut additionals: Vec<Record> = Vec::new();
        let mut add = |port: u16, target: Name, address: Option<IpAddr>| {
            let data = RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, port, target.clone()));
            answers.push(self.zone.record(self.name.clone(), data));
            if let Some(address) = address {
                let record = self.zone.record(target, RData::from(address));
                if !additionals.contains(&record) {
                    additionals.push(record);
                }
            }
        };
        for port in service.ports.iter().filter(|port| wanted(port)) {
            match &service.kind {
                ServiceKind::External(_) => {}
                ServiceKind::Virtual(addresses) => {
                    if let Some(target) = self.zone.service_name(&service.id) {
                        add(port.port, target, addresses.first().copied());
                    }
                }
                ServiceKind::Headless => {
                    for endpoint in self.published(service) {
                        let host = host_label(endpoint);
                        let target =
                            self.zone.below(&[&host, &service.id.name, &service.id.namespace, "svc"]);
                        if let (Some(target), Some(number)) =
                            (target, endpoint.port(&port.name, port.transport))
                        {
                            add(number, target, Some(endpoint.address));
                        }
                    }
                }
            }
        }
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals } }
    }

    fn published(&self, service: &Service) -> impl Iterator<Item = &Endpoint> {
        let all = service.publish_not_ready;
        self.state.endpoints_of(&service.id).iter().filter(move |e| all || e.health == Health::Ready)
    }

    fn addresses(&self, addresses: impl Iterator<Item = IpAddr>) -> Answer {
        let mut answers: Vec<Record> = addresses
            .filter(|address| match self.kind {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                kind => kind == RecordType::ANY,
            })
            .map(|address| self.zone.record(self.name.clone(), RData::from(address)))
            .collect();
        answers.dedup();
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals: vec![] } }
    }

    fn alias(&self, target: &str) -> Answer {
        let Ok(mut target) = Name::from_ascii(target) else { return Answer::NoData };
        target.set_fqdn(true);
        let record = self.zone.record(self.name.clone(), RData::CNAME(CNAME(target.clone())));
        match self.kind {
            RecordType::CNAME | RecordType::ANY => {
                Answer::Records { answers: vec![record], additionals: vec![] }
            }
            _ => Answer::Alias { record: Box::new(record), target },
        }
    }

    fn one(&self, data: RData) -> Answer {
        Answer::Records { answers: vec![self.zone.record(self.name.clone(), data)], additionals: vec![] }
    }
}

/// An endpoint's own label: its host name, else its address with dashes.
fn host_label(endpoint: &Endpoint) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| endpoint.address.to_string().replace(['.', ':'], "-"))
}

fn transport_of(label: &str) -> Option<Transport> {
    match label {
        "_tcp" => Some(Transport::Tcp),
        "_udp" => Some(Transport::Udp),
        "_sctp" => Some(Transport::Sctp),
        _ => None,
    }
}

/// The labels of a name in lower case; `None` if one has bytes that no host name has.
fn labels(name: &Name) -> Option<Vec<String>> {
    let of_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.iter()
        .map(|label| {
            let text = label.iter().all(of_host).then(|| std::str::from_utf8(label).ok()).flatten()?;
            Some(text.to_ascii_lowercase())
        })
        .collect()
}

fn name_of(labels: &[&str]) -> Option<Name> {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()
}

fn strip_suffix<'l, 'a>(labels: &'l [&'a str], suffix: &[String]) -> Option<&'l [&'a str]> {
    let (relative, end) = labels.split_at_checked(labels.len().checked_sub(suffix.len())?)?;
    end.iter().zip(suffix).all(|(a, b)| *a == b.as_str()).then_some(relative)
}

#[cfg(test)]
mod tests;
