//! Rules about Services and EndpointSlices.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::names::{DNS_LABEL_HINT, DNS_SUBDOMAIN_HINT, PORT_NAME_HINT};
use super::{Errors, FieldError, is_dns_label, is_dns_subdomain, is_port_name, meta};
use crate::access::{int, items, text};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;

pub(super) fn service(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let service_type = text(spec, "type");
    errors.one_of("spec.type", service_type, TYPES);
    errors.one_of("spec.sessionAffinity", text(spec, "sessionAffinity"), &["ClientIP", "None"]);
    errors.one_of("spec.internalTrafficPolicy", text(spec, "internalTrafficPolicy"), &["Cluster", "Local"]);
    errors.one_of("spec.externalTrafficPolicy", text(spec, "externalTrafficPolicy"), &["Cluster", "Local"]);
    meta::labels("spec.selector", spec, "selector", errors);
    let cluster_ip = text(spec, "clusterIP");
    if service_type == "ExternalName" {
        let name = text(spec, "externalName").trim_end_matches('.');
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else if !is_dns_subdomain(name) {
            errors.invalid("spec.externalName", name, DNS_SUBDOMAIN_HINT);
        }
        if !cluster_ip.is_empty() {
            errors
                .add(FieldError::forbidden("spec.clusterIP", "may not be set when `type` is 'ExternalName'"));
        }
    } else if items(spec, "ports").is_empty() && cluster_ip != "None" {
        errors.required("spec.ports", "");
    }
    if !matches!(cluster_ip, "" | "None") && cluster_ip.parse::<IpAddr>().is_err() {
        errors.invalid(
            "spec.clusterIPs[0]",
            cluster_ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    if cluster_ip == "None" && matches!(service_type, "NodePort" | "LoadBalancer") {
        errors.invalid(
            "spec.clusterIPs[0]",
            "None",
            &format!("may not be set to 'None' for {service_type} services"),
        );
    }
    service_ports(spec, errors);
}

fn service_ports(spec: &Value, errors: &mut Errors) {
    let ports = items(spec, "ports");
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(format!("{path}.name"), "");
            }
        } else {
            if !is_dns_label(name) {
                errors.invalid(format!("{path}.name"), name, DNS_LABEL_HINT);
            }
            errors.unique(format!("{path}.name"), name, &mut names);
        }
        errors.port(format!("{path}.port"), int(port, "port"));
        errors
            .port_or_name(format!("{path}.targetPort"), port.get("targetPort").or_else(|| port.get("port")));
        errors.one_of(format!("{path}.protocol"), text(port, "protocol"), PROTOCOLS);
        if int(port, "nodePort").is_some_and(|p| p != 0) {
            errors.port(format!("{path}.nodePort"), int(port, "nodePort"));
        }
        let key = (int(port, "port"), text(port, "protocol"));
        if !numbers.insert(key) {
            errors.add(FieldError::duplicate(path, port.clone()));
        }
    }
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    let address_type = text(object, "addressType");
    if address_type.is_empty() {
        errors.required("addressType", "");
    }
    errors.one_of("addressType", address_type, &["FQDN", "IPv4", "IPv6"]);
    let endpoints = items(object, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.invalid("endpoints", endpoints.len(), &format!("must have at most {MAX_ENDPOINTS} items"));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        let addresses = items(endpoint, "addresses");
        if addresses.is_empty() {
            errors.required(&path, "must contain at least 1 address");
        }
        if addresses.len() > MAX_ADDRESSES {
            errors.invalid(&path, addresses.len(), &format!("must have at most {MAX_ADDRESSES} items"));
        }
        for (index, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let (fits, hint) = match address_type {
                "IPv4" => (address.parse::<Ipv4Addr>().is_ok(), "must be a valid IPv4 address"),
                "IPv6" => (address.parse::<Ipv6Addr>().is_ok(), "must be a valid IPv6 address"),
                _ => (is_dns_subdomain(address), DNS_SUBDOMAIN_HINT),
            };
            if !fits {
                errors.invalid(format!("{path}[{index}]"), address, hint);
            }
        }
    }
    let mut names = HashSet::new();
    for (index, port) in items(object, "ports").iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(port, "name");
        errors.unique(format!("{path}.name"), name, &mut names);
        if !name.is_empty() && !is_dns_label(name) && !is_port_name(name) {
            errors.invalid(format!("{path}.name"), name, PORT_NAME_HINT);
        }
        errors.one_of(format!("{path}.protocol"), text(port, "protocol"), PROTOCOLS);
        if int(port, "port").is_some() {
            errors.port(format!("{path}.port"), int(port, "port"));
        }
    }
}
