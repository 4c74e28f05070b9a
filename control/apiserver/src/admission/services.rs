//! Cluster addresses of Services.

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::{Value, json};
use weft_api::{registry::Resource, status::Status, validate::FieldError};

use crate::config::ServiceCidr;

/// The text in `clusterIP` of a service that has no address on purpose.
const HEADLESS: &str = "None";

/// The addresses that are taken. This server is the only writer of the store, so what it holds in memory is the truth; it is
/// built from the stored services at the start.
#[derive(Debug)]
pub(crate) struct ServiceAddresses {
    cidr: ServiceCidr,
    taken: Mutex<HashSet<Ipv4Addr>>,
}

/// Addresses that a write takes or frees, once it succeeds.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    addresses: Option<Arc<ServiceAddresses>>,
    taken: Option<Ipv4Addr>,
    freed: Option<Ipv4Addr>,
}

// === impl ServiceAddresses ===

impl ServiceAddresses {
    pub(crate) fn new(cidr: ServiceCidr, services: impl Iterator<Item = Value>) -> Arc<Self> {
        let taken = services.filter_map(|service| address(&service)).collect();
        Arc::new(Self { cidr, taken: Mutex::new(taken) })
    }

    /// Frees what a removed service had.
    pub(crate) fn release(&self, service: &Value) {
        if let Some(address) = address(service) {
            self.taken.lock().remove(&address);
        }
    }

    /// Gives a service the address that it wants or any that is free, if its type has one.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        resource: &Resource,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        let freed = old.and_then(address);
        let mut reservation = Reservation { addresses: Some(self.clone()), taken: None, freed: None };
        let Some(spec) = service["spec"].as_object_mut() else { return Ok(reservation) };
        if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
            reservation.freed = freed;
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                spec.remove(field);
            }
            return Ok(reservation);
        }
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let first = spec.get("clusterIPs").and_then(|list| list.get(0));
        let mut wanted = text(spec.get("clusterIP").filter(|ip| *ip != "").or(first));
        if wanted.is_empty() {
            // A client that sends back a service without its address does not mean to take it away.
            wanted = old.map(|old| text(old["spec"].get("clusterIP"))).unwrap_or_default();
        }
        let chosen = match wanted.as_str() {
            HEADLESS => None,
            "" => Some(
                self.take_any()
                    .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?,
            ),
            text => {
                let wanted = self.parse(text).map_err(|why| invalid(resource, service, text, &why))?;
                if freed != Some(wanted) && !self.taken.lock().insert(wanted) {
                    let why = format!("failed to allocate IP {wanted}: provided IP is already allocated");
                    return Err(invalid(resource, service, text, &why));
                }
                Some(wanted)
            }
        };
        reservation.taken = chosen.filter(|address| freed != Some(*address));
        let text = chosen.map_or_else(|| HEADLESS.to_owned(), |address| address.to_string());
        service["spec"]["clusterIP"] = json!(text);
        service["spec"]["clusterIPs"] = json!([text]);
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
        service["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        Ok(reservation)
    }

    fn parse(&self, text: &str) -> Result<Ipv4Addr, String> {
        let address: Ipv4Addr = text.parse().map_err(|_| "must be an IPv4 address".to_owned())?;
        if !self.cidr.contains(address) {
            return Err(format!(
                "failed to allocate IP {address}: the provided IP is not in the valid range"
            ));
        }
        Ok(address)
    }

    fn take_any(&self) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock();
        // At random, so that an address that was just freed is not at once somebody else's. The first is for `kubernetes`.
        let start = rand::rng().random_range(0..self.cidr.size());
        let candidates = (0..self.cidr.size()).map(|offset| (start + offset) % self.cidr.size());
        let mut free = candidates.filter(|index| *index != 0).map(|index| self.cidr.address(index));
        let address = free.find(|address| !taken.contains(address))?;
        taken.insert(address);
        Some(address)
    }
}

// === impl Reservation ===

impl Reservation {
    /// The write succeeded.
    pub(crate) fn keep(mut self) {
        self.taken = None;
        if let (Some(addresses), Some(freed)) = (&self.addresses, self.freed) {
            addresses.taken.lock().remove(&freed);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let (Some(addresses), Some(taken)) = (&self.addresses, self.taken) {
            addresses.taken.lock().remove(&taken);
        }
    }
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str()?.parse().ok()
}

fn invalid(resource: &Resource, service: &Value, value: &str, why: &str) -> Status {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    Status::invalid(resource, name, vec![FieldError::invalid("spec.clusterIPs", json!([value]), why)])
}

#[cfg(test)]
mod tests {
    use weft_api::registry;

    use super::*;

    fn services() -> &'static Resource {
        registry::find("", "v1", "services").unwrap()
    }

    #[test]
    fn addresses_are_unique_and_come_back() {
        let addresses = ServiceAddresses::new("10.96.0.0/28".parse().unwrap(), std::iter::empty());
        let mut all = HashSet::new();
        for _ in 1..14 {
            let mut service = json!({"spec": {}});
            addresses.allocate(services(), &mut service, None).unwrap().keep();
            assert!(all.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        }
        let mut service = json!({"spec": {}});
        assert_eq!(addresses.allocate(services(), &mut service, None).unwrap_err().code, 500);
        addresses.release(&json!({"spec": {"clusterIP": "10.96.0.7"}}));
        drop(addresses.allocate(services(), &mut service, None).unwrap());
        let mut service = json!({"spec": {"clusterIP": "10.96.0.7"}});
        addresses.allocate(services(), &mut service, None).unwrap().keep();
        assert_eq!(addresses.allocate(services(), &mut service, None).unwrap_err().code, 422);
    }

    #[test]
    fn headless_and_external_services_have_none_and_updates_keep_theirs() {
        let addresses = ServiceAddresses::new(ServiceCidr::default(), std::iter::empty());
        let mut headless = json!({"spec": {"clusterIP": "None"}});
        addresses.allocate(services(), &mut headless, None).unwrap().keep();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let mut external = json!({"spec": {"type": "ExternalName"}});
        addresses.allocate(services(), &mut external, None).unwrap().keep();
        assert_eq!(external["spec"].get("clusterIP"), None);
        let old = json!({"spec": {"clusterIP": "10.96.0.9"}});
        let mut new = json!({"spec": {}});
        addresses.allocate(services(), &mut new, Some(&old)).unwrap().keep();
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        let mut outside = json!({"spec": {"clusterIP": "10.97.0.9"}});
        assert_eq!(addresses.allocate(services(), &mut outside, None).unwrap_err().code, 422);
    }
}
