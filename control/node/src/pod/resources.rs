//! Requests and limits of containers.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use weft_api::quantity::Quantity;

use crate::runtime::Limits;

/// Processor time in thousandths of a processor; `None` if the text is no quantity (the API server refuses those).
fn cpu_millis(quantity: &Text) -> Option<u64> {
    u64::try_from(quantity.0.parse::<Quantity>().ok()?.cpu_millis()).ok()
}

/// A size in bytes.
fn bytes(quantity: &Text) -> Option<u64> {
    u64::try_from(quantity.0.parse::<Quantity>().ok()?.bytes()).ok()
}

/// What a runtime is to enforce for a container.
pub(crate) fn limits(container: &Container) -> Limits {
    let Some(resources) = &container.resources else { return Limits::default() };
    let find = |map: &Option<BTreeMap<String, Text>>, name: &str| map.as_ref()?.get(name).cloned();
    Limits {
        cpu_millis: find(&resources.limits, "cpu").as_ref().and_then(cpu_millis).filter(|millis| *millis > 0),
        memory_bytes: find(&resources.limits, "memory").as_ref().and_then(bytes).filter(|bytes| *bytes > 0),
        cpu_request_millis: find(&resources.requests, "cpu").as_ref().and_then(cpu_millis),
    }
}

/// Kubernetes' quality-of-service class of a pod.
pub(crate) fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let amount = |resources: &ResourceRequirements, limit: bool, name: &str| {
        let map = if limit { &resources.limits } else { &resources.requests };
        map.as_ref()?.get(name)?.0.parse::<Quantity>().ok().filter(|quantity| !quantity.is_zero())
    };
    let empty = ResourceRequirements::default();
    let of = |container: &'_ Container| container.resources.clone().unwrap_or_else(|| empty.clone());
    let any = containers().any(|container| {
        let resources = of(container);
        ["cpu", "memory"]
            .iter()
            .any(|name| amount(&resources, true, name).is_some() || amount(&resources, false, name).is_some())
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        let resources = of(container);
        ["cpu", "memory"].iter().all(|name| {
            match (amount(&resources, true, name), amount(&resources, false, name)) {
                (Some(limit), Some(request)) => limit == request,
                // A limit without a request is its own request.
                (Some(_), None) => true,
                (None, _) => false,
            }
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
            .expect("a pod")
    }

    #[test]
    fn classes_follow_kubernetes() {
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let equal =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod(equal)), "Guaranteed");
        assert_eq!(qos_class(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
    }

    #[test]
    fn limits_are_read_in_the_units_of_the_kernel() {
        let pod = pod(json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "1.5", "memory": "64Mi"}}));
        let container = &pod.spec.expect("a spec").containers[0];
        assert_eq!(
            limits(container),
            Limits { cpu_millis: Some(1500), memory_bytes: Some(64 << 20), cpu_request_millis: Some(250) }
        );
    }
}
