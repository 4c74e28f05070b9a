//! A container's environment, as Kubernetes defines it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use weft_api::mesh::{MAX_SERVICE_PORTS, outbound_port};

use super::{
    fields::{self, Facts, FieldError},
    sources::Sources,
};

/// How a pod reaches services, which decides what their variables say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceView {
    /// Traffic is captured: the cluster IP and the service's port, as in Kubernetes.
    ClusterIp,
    /// Traffic is addressed to the sidecar, one port per service port.
    Sidecar(Ipv4Addr),
}

/// The environment cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvError {
    #[error("couldn't find key {key} in {kind} {name:?}")]
    Key { kind: &'static str, name: String, key: String },
    #[error("{kind} {name:?} not found")]
    Object { kind: &'static str, name: String },
    #[error("environment variable {name}")]
    Field {
        name: String,
        #[source]
        source: FieldError,
    },
    #[error("environment variable {0} has a source that is not supported")]
    Source(String),
}

/// Everything that the environment is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnvInputs<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) facts: &'a Facts,
    /// From [`service_variables`].
    pub(crate) services: &'a [(String, String)],
    pub(crate) sources: &'a Sources,
    /// Variables of the runtime's own, which the pod's may refer to and override.
    pub(crate) extra: &'a [(String, String)],
}

/// The variables of one container, in the order in which they may refer to each other.
pub(crate) fn build(container: &Container, inputs: EnvInputs<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Variables::default();
    for (name, value) in inputs.extra.iter().chain(inputs.services) {
        variables.set(name, value.clone());
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        let entries = match (&from.config_map_ref, &from.secret_ref) {
            (Some(reference), _) => inputs.sources.config_map(&reference.name, reference.optional)?,
            (None, Some(reference)) => inputs.sources.secret(&reference.name, reference.optional)?,
            (None, None) => continue,
        };
        for (key, value) in entries.iter().flat_map(|entries| entries.iter()) {
            if let Ok(text) = std::str::from_utf8(value) {
                variables.set(&format!("{prefix}{key}"), text.to_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value_from, &variable.value) {
            (Some(source), _) => from_source(container, &variable.name, source, inputs)?,
            (None, value) => Some(expand(value.as_deref().unwrap_or(""), |name| variables.get(name))),
        };
        // An optional reference without a target leaves the variable unset.
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    Ok(variables.list)
}

fn from_source(
    container: &Container,
    name: &str,
    source: &EnvVarSource,
    inputs: EnvInputs<'_>,
) -> Result<Option<String>, EnvError> {
    let wrong_field = |source| EnvError::Field { name: name.to_owned(), source };
    if let Some(reference) = &source.field_ref {
        return fields::field(inputs.pod, inputs.facts, &reference.field_path).map(Some).map_err(wrong_field);
    }
    if let Some(reference) = &source.resource_field_ref {
        return fields::resource(inputs.pod, inputs.facts, Some(container), reference)
            .map(Some)
            .map_err(wrong_field);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let entries = inputs.sources.config_map(&reference.name, reference.optional)?;
        let value = entries.and_then(|entries| entries.get(&reference.key).cloned());
        return required(value, "ConfigMap", &reference.name, &reference.key, reference.optional);
    }
    if let Some(reference) = &source.secret_key_ref {
        let entries = inputs.sources.secret(&reference.name, reference.optional)?;
        let value = entries.and_then(|entries| entries.get(&reference.key).cloned());
        return required(value, "Secret", &reference.name, &reference.key, reference.optional);
    }
    Err(EnvError::Source(name.to_owned()))
}

fn required(
    value: Option<Vec<u8>>,
    kind: &'static str,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => Err(EnvError::Key { kind, name: name.to_owned(), key: key.to_owned() }),
    }
}

/// Replaces `$(NAME)` by the variable's value; an unknown name stays as it is, and `$$` is a dollar sign.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        output.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => output.push_str(&value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = after;
        } else {
            output.push('$');
        }
    }
    output.push_str(rest);
    output
}

/// The `*_SERVICE_HOST` and `*_PORT` variables of the services that a pod of `namespace` sees: those of its namespace
/// and the cluster's own API, `kubernetes` in `default`.
pub(crate) fn service_variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
    view: ServiceView,
) -> Vec<(String, String)> {
    let mut variables = Variables::default();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or("");
        let own = service.metadata.namespace.as_deref() == Some(namespace) && links;
        let api = service.metadata.namespace.as_deref() == Some("default") && name == "kubernetes";
        if own || api {
            add_service(&mut variables, name, service, view);
        }
    }
    variables.list
}

fn add_service(variables: &mut Variables, name: &str, service: &Service, view: ServiceView) {
    let Some(spec) = &service.spec else { return };
    // Headless services ("None") and external names have no address to tell.
    let Some(cluster_ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
        return;
    };
    let host = match view {
        ServiceView::ClusterIp => cluster_ip,
        ServiceView::Sidecar(address) => address,
    };
    let prefix = upper(name);
    for (index, port) in spec.ports.iter().flatten().take(MAX_SERVICE_PORTS).enumerate() {
        let number = match view {
            ServiceView::ClusterIp => port.port.to_string(),
            ServiceView::Sidecar(_) => outbound_port(cluster_ip, index).to_string(),
        };
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if index == 0 {
            variables.set(&format!("{prefix}_SERVICE_HOST"), host.to_string());
            variables.set(&format!("{prefix}_SERVICE_PORT"), number.clone());
            variables.set(&format!("{prefix}_PORT"), url.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.set(&format!("{prefix}_SERVICE_PORT_{}", upper(name)), number.clone());
        }
        // The names carry the service's own port, by which programs know it; the values say where it is reached.
        let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
        variables.set(&link, url);
        variables.set(&format!("{link}_PROTO"), protocol.to_lowercase());
        variables.set(&format!("{link}_PORT"), number);
        variables.set(&format!("{link}_ADDR"), host.to_string());
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Names in the order of their first setting, each with its last value.
#[derive(Debug, Default)]
struct Variables {
    list: Vec<(String, String)>,
    /// Index in `list` by name.
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(index) => self.list[*index].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.index.get(name).map(|index| self.list[*index].1.clone())
    }
}

#[cfg(test)]
mod tests;
