//! The cluster's bridge network and how names are resolved in it.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use bollard::{Docker, errors::Error, models::NetworkCreateRequest};

use super::{
    DockerNetwork,
    engine::{self, CLUSTER, Labels},
};
use crate::runtime::RuntimeError;

/// Option that names the bridge's interface.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// Makes the network, or finds it.
pub(super) async fn ensure(docker: &Docker, labels: &Labels) -> Result<DockerNetwork, RuntimeError> {
    let name = labels.network_name();
    if let Some(network) = find(docker, &name).await? {
        return Ok(network);
    }
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".into()),
        options: Some(HashMap::from([(BRIDGE_NAME.to_owned(), name.clone())])),
        labels: Some(HashMap::from([(CLUSTER.to_owned(), labels.cluster().to_owned())])),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request).await {
        // 409: another process of ours was quicker.
        Ok(_) | Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
        Err(other) => return Err(engine::error(other)),
    }
    let network = find(docker, &name).await?;
    network.ok_or_else(|| RuntimeError::Failed(format!("network {name} has no IPv4 gateway")))
}

/// Removes the network; that it is gone already is no error.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    match docker.remove_network(name).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(other) => Err(engine::error(other)),
    }
}

async fn find(docker: &Docker, name: &str) -> Result<Option<DockerNetwork>, RuntimeError> {
    let found = match docker.inspect_network(name, None).await {
        Ok(found) => found,
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
        Err(other) => return Err(engine::error(other)),
    };
    let gateways = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let gateway = gateways.into_iter().find_map(|config| {
        // Some versions write it with its prefix length.
        config.gateway?.split('/').next()?.parse().ok()
    });
    Ok(gateway.map(|gateway| DockerNetwork { name: name.to_owned(), gateway }))
}

/// Writes the resolver's configuration for pods of a namespace, as Kubernetes' `ClusterFirst` has it.
pub(super) fn write_resolver(
    data_dir: &Path,
    namespace: &str,
    domain: &str,
    server: Ipv4Addr,
) -> Result<PathBuf, RuntimeError> {
    let directory = data_dir.join("node/docker");
    std::fs::create_dir_all(&directory)
        .map_err(RuntimeError::io(format!("create {}", directory.display())))?;
    let path = directory.join(format!("resolv.{namespace}.conf"));
    let text = resolver(namespace, domain, server);
    if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return resolved(&path);
    }
    // Written in place: the file is mounted into containers, which a new one with the same name would not reach.
    std::fs::write(&path, text).map_err(RuntimeError::io(format!("write {}", path.display())))?;
    resolved(&path)
}

fn resolved(path: &Path) -> Result<PathBuf, RuntimeError> {
    path.canonicalize().map_err(RuntimeError::io(format!("resolve {}", path.display())))
}

fn resolver(namespace: &str, domain: &str, server: Ipv4Addr) -> String {
    format!("search {namespace}.svc.{domain} svc.{domain} {domain}\nnameserver {server}\noptions ndots:5\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_as_in_kubernetes() {
        assert_eq!(
            resolver("shop", "cluster.local", Ipv4Addr::new(172, 18, 0, 1)),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 172.18.0.1\noptions ndots:5\n"
        );
    }
}
