//! Nodes and Services.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Printer, or_none};
use crate::access::{entries, int, items, items_at, text, text_at};

impl Printer<'_> {
    pub(super) fn node(&self) -> Vec<Value> {
        let info = |field: &str| text_at(self.object, &format!("/status/nodeInfo/{field}"));
        let or_unknown = |text: &str| Value::from(if text.is_empty() { "<unknown>" } else { text });
        vec![
            self.name(),
            self.node_status().into(),
            or_none(&self.node_roles()),
            self.age(),
            info("kubeletVersion").into(),
            or_none(self.node_address("InternalIP")),
            or_none(self.node_address("ExternalIP")),
            or_unknown(info("osImage")),
            or_unknown(info("kernelVersion")),
            or_unknown(info("containerRuntimeVersion")),
        ]
    }

    fn node_status(&self) -> String {
        let ready = items_at(self.object, "/status/conditions").iter().find(|c| text(c, "type") == "Ready");
        let status = match ready {
            Some(condition) if text(condition, "status") == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        };
        if self.object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
            format!("{status},SchedulingDisabled")
        } else {
            status.to_owned()
        }
    }

    fn node_roles(&self) -> String {
        let meta = self.object.get("metadata").unwrap_or(&Value::Null);
        let roles: BTreeSet<&str> = entries(meta, "labels")
            .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            })
            .filter(|role| !role.is_empty())
            .collect();
        roles.into_iter().collect::<Vec<_>>().join(",")
    }

    fn node_address(&self, address_type: &str) -> &str {
        items_at(self.object, "/status/addresses")
            .iter()
            .find(|a| text(a, "type") == address_type)
            .map_or("", |a| text(a, "address"))
    }

    pub(super) fn service(&self) -> Vec<Value> {
        let spec = self.object.get("spec").unwrap_or(&Value::Null);
        let cluster_ip = match text_at(spec, "/clusterIPs/0") {
            "" => text(spec, "clusterIP"),
            ip => ip,
        };
        let ports: Vec<String> = items(spec, "ports").iter().map(service_port).collect();
        let selector: Vec<String> = entries(spec, "selector")
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        vec![
            self.name(),
            text(spec, "type").into(),
            or_none(cluster_ip),
            self.external_ip(spec).into(),
            or_none(&ports.join(",")),
            self.age(),
            or_none(&selector.join(",")),
        ]
    }

    fn external_ip(&self, spec: &Value) -> String {
        let service_type = text(spec, "type");
        if service_type == "ExternalName" {
            return text(spec, "externalName").to_owned();
        }
        let balancers =
            items_at(self.object, "/status/loadBalancer/ingress").iter().map(|i| match text(i, "ip") {
                "" => text(i, "hostname"),
                ip => ip,
            });
        let own = items(spec, "externalIPs").iter().filter_map(Value::as_str);
        let ips: Vec<&str> = match service_type {
            "LoadBalancer" => balancers.chain(own).collect(),
            _ => own.collect(),
        };
        match (ips.is_empty(), service_type) {
            (true, "LoadBalancer") => "<pending>".to_owned(),
            (true, _) => "<none>".to_owned(),
            (false, _) => ips.join(","),
        }
    }
}

fn service_port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
    match int(port, "nodePort").unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}
