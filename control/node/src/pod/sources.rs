//! The ConfigMaps and Secrets that a pod refers to, as they are now.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::Api;

use super::env::EnvError;

/// Keys and values.
pub(crate) type Entries = BTreeMap<String, Vec<u8>>;

/// What was found; names that are not in here do not exist.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    config_maps: BTreeMap<String, Entries>,
    secrets: BTreeMap<String, Entries>,
}

/// Names that a pod refers to.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

// === impl Sources ===

impl Sources {
    /// Fetches everything that the pod's containers and volumes refer to.
    pub(crate) async fn fetch(client: &kube::Client, pod: &Pod) -> Result<Self, kube::Error> {
        let references = References::of(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut sources = Self::default();
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in references.config_maps {
            if let Some(found) = config_maps.get_opt(&name).await? {
                let text =
                    found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                let binary =
                    found.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                sources.config_maps.insert(name, text.chain(binary).collect());
            }
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in references.secrets {
            if let Some(found) = secrets.get_opt(&name).await? {
                let data = found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                sources.secrets.insert(name, data.collect());
            }
        }
        Ok(sources)
    }

    pub(crate) fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Entries>, EnvError> {
        find(&self.config_maps, "ConfigMap", name, optional)
    }

    pub(crate) fn secret(&self, name: &str, optional: Option<bool>) -> Result<Option<&Entries>, EnvError> {
        find(&self.secrets, "Secret", name, optional)
    }

    #[cfg(test)]
    pub(crate) fn insert_config_map<const N: usize>(&mut self, name: &str, entries: [(&str, &str); N]) {
        let entries = entries.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        self.config_maps.insert(name.to_owned(), entries.into());
    }

    #[cfg(test)]
    pub(crate) fn insert_secret<const N: usize>(&mut self, name: &str, entries: [(&str, &str); N]) {
        let entries = entries.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        self.secrets.insert(name.to_owned(), entries.into());
    }
}

fn find<'a>(
    objects: &'a BTreeMap<String, Entries>,
    kind: &'static str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a Entries>, EnvError> {
    match objects.get(name) {
        None if optional != Some(true) => Err(EnvError::Object { kind, name: name.to_owned() }),
        found => Ok(found),
    }
}

// === impl References ===

impl References {
    fn of(pod: &Pod) -> Self {
        let mut references = Self::default();
        let Some(spec) = &pod.spec else { return references };
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            references.add_container(container);
        }
        for volume in spec.volumes.iter().flatten() {
            references.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
            references.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
            for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
                references.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
                references.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
            }
        }
        references
    }

    fn add_container(&mut self, container: &Container) {
        for from in container.env_from.iter().flatten() {
            self.config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            self.secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            self.secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_may_name_an_object_is_looked_at() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s1"}}]}],
            "initContainers": [{"name": "i", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "c3"}}, {"name": "w", "secret": {"secretName": "s3"}},
                {"name": "x", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s4"}}]}}]
        }}))
        .expect("a pod");
        let references = References::of(&pod);
        assert_eq!(references.config_maps, ["c1", "c2", "c3", "c4"].map(String::from).into());
        assert_eq!(references.secrets, ["s1", "s2", "s3", "s4"].map(String::from).into());
    }
}
