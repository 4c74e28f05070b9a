//! The downward API: what a pod may ask about itself.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use weft_api::quantity::Quantity;

/// What is known about a pod's place besides its object.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) pod_ip: IpAddr,
    pub(crate) host_ip: IpAddr,
    /// The node's allocatable processor time; what a container without a limit may use.
    pub(crate) cpu_millis: u64,
    /// The node's allocatable memory.
    pub(crate) memory_bytes: u64,
}

/// A field that cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FieldError {
    #[error("field path {0:?} is not supported")]
    Path(String),
    #[error("resource {0:?} is not supported")]
    Resource(String),
    #[error("divisor {0:?} is not valid")]
    Divisor(String),
    #[error("there is no container {0:?}")]
    Container(String),
}

/// The value of `fieldRef.fieldPath`.
pub(crate) fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, FieldError> {
    let text = |value: &Option<String>| Ok(value.clone().unwrap_or_default());
    let metadata = &pod.metadata;
    match path {
        "metadata.name" => text(&metadata.name),
        "metadata.namespace" => text(&metadata.namespace),
        "metadata.uid" => text(&metadata.uid),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        "spec.nodeName" => text(&pod.spec.as_ref().and_then(|spec| spec.node_name.clone())),
        "spec.serviceAccountName" => {
            text(&pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()))
        }
        "status.hostIP" | "status.hostIPs" => Ok(facts.host_ip.to_string()),
        "status.podIP" | "status.podIPs" => Ok(facts.pod_ip.to_string()),
        _ => {
            let entry = |prefix: &str, map: Option<&BTreeMap<String, String>>| {
                let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
                Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
            };
            entry("metadata.labels", metadata.labels.as_ref())
                .or_else(|| entry("metadata.annotations", metadata.annotations.as_ref()))
                .ok_or_else(|| FieldError::Path(path.to_owned()))
        }
    }
}

/// The value of `resourceFieldRef`, for a container unless the selector names another.
pub(crate) fn resource(
    pod: &Pod,
    facts: &Facts,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => pod
            .spec
            .as_ref()
            .and_then(|spec| {
                spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
            })
            .ok_or_else(|| FieldError::Container(name.to_owned()))?,
        None => container.ok_or_else(|| FieldError::Container(String::new()))?,
    };
    let unknown = || FieldError::Resource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let of = |limits: bool| {
        let resources = container.resources.as_ref()?;
        let map = if limits { &resources.limits } else { &resources.requests };
        map.as_ref()?.get(name)?.0.parse::<Quantity>().ok()
    };
    let value = match kind {
        "limits" => of(true),
        "requests" => of(false).or_else(|| of(true)),
        _ => return Err(unknown()),
    };
    let milli = match name {
        "cpu" => value
            .map_or_else(|| if kind == "limits" { i128::from(facts.cpu_millis) } else { 0 }, |q| q.milli()),
        "memory" => value.map_or_else(
            || if kind == "limits" { i128::from(facts.memory_bytes) * 1000 } else { 0 },
            |q| q.milli(),
        ),
        "ephemeral-storage" => value.map_or(0, |quantity| quantity.milli()),
        _ => return Err(unknown()),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let bad = || FieldError::Divisor(divisor.to_owned());
    // The API server writes a missing divisor as "0", as Kubernetes does.
    let divisor = match divisor.parse::<Quantity>().map_err(|_| bad())?.milli() {
        0 => 1000,
        divisor if divisor > 0 => divisor,
        _ => return Err(bad()),
    };
    // Rounded up, as Kubernetes does: a program told zero processors would do no work.
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// `key="value"` lines, sorted by key, quoted as Go does.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        // Debug's quoting agrees with Go's `%q` on everything that a label may contain.
        let _ = writeln!(text, "{key}={value:?}");
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    pub(crate) fn facts() -> Facts {
        Facts {
            pod_ip: Ipv4Addr::new(127, 64, 0, 2).into(),
            host_ip: Ipv4Addr::LOCALHOST.into(),
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a/b": "c", "d": "e\"f"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "3Mi"}}}]}
        }))
        .expect("a pod")
    }

    fn resource_of(name: &str, divisor: &str) -> Result<String, FieldError> {
        let pod = pod();
        let selector =
            serde_json::from_value(json!({"resource": name, "divisor": divisor})).expect("a selector");
        resource(&pod, &facts(), pod.spec.as_ref().and_then(|spec| spec.containers.first()), &selector)
    }

    #[test]
    fn fields_and_single_labels_are_found() {
        let get = |path: &str| field(&pod(), &facts(), path);
        assert_eq!(get("metadata.name").as_deref(), Ok("p"));
        assert_eq!(get("spec.nodeName").as_deref(), Ok("n"));
        assert_eq!(get("status.podIP").as_deref(), Ok("127.64.0.2"));
        assert_eq!(get("metadata.labels['a/b']").as_deref(), Ok("c"));
        assert_eq!(get("metadata.annotations['none']").as_deref(), Ok(""));
        assert_eq!(get("metadata.labels").as_deref(), Ok("a/b=\"c\"\nd=\"e\\\"f\""));
        assert_eq!(get("spec.hostNetwork"), Err(FieldError::Path("spec.hostNetwork".into())));
    }

    #[test]
    fn resources_are_divided_rounding_up_and_default_to_the_nodes() {
        assert_eq!(resource_of("limits.cpu", "1").as_deref(), Ok("2"));
        assert_eq!(resource_of("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(resource_of("requests.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(resource_of("requests.memory", "1Mi").as_deref(), Ok("3"));
        assert_eq!(resource_of("limits.memory", "0").as_deref(), Ok("1073741824"));
        assert!(resource_of("limits.gpu", "1").is_err());
        assert!(resource_of("cpu", "1").is_err());
        assert!(resource_of("limits.cpu", "-1").is_err());
    }
}
