//! Applying the demo's manifest and waiting for it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use http::StatusCode;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{Api, Client, api::PostParams, runtime::wait::await_condition};
use serde::Deserialize as _;
use serde_json::Value;
use weft_api::mesh::outbound_port;
use weft_kit::error::chain;

use super::upstream::Upstream;

/// The text that `kubectl apply -f` would take as well.
const MANIFEST: &str = include_str!("manifest.yaml");

const NAMESPACE: &str = "default";

/// How often the gateway is asked until it answers.
const ANSWER_POLL: Duration = Duration::from_millis(20);

/// An object of the manifest; the demo needs no other kind.
#[derive(Debug)]
enum Object {
    Service(Box<Service>),
    Deployment(Box<Deployment>),
}

/// What [`apply`] did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Objects that were not there.
    pub(crate) created: usize,
    /// Objects that were there and stay as they are: whatever was changed since is the user's will.
    pub(crate) kept: usize,
}

/// Creates what is not there yet, in the order of the manifest.
pub(crate) async fn apply(client: &Client) -> anyhow::Result<Applied> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut applied = Applied::default();
    for object in objects()? {
        let outcome = match &object {
            Object::Service(service) => services.create(&PostParams::default(), service).await.map(drop),
            Object::Deployment(deployment) => {
                deployments.create(&PostParams::default(), deployment).await.map(drop)
            }
        };
        match outcome {
            Ok(()) => applied.created += 1,
            Err(kube::Error::Api(status)) if status.is_already_exists() => applied.kept += 1,
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", object.describe())),
        }
    }
    Ok(applied)
}

/// Waits until every Deployment of the manifest has all its replicas available; on time-out says which has not.
pub(crate) async fn wait_available(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let names = objects()?.into_iter().filter_map(|object| match object {
        Object::Deployment(deployment) => deployment.metadata.name,
        Object::Service(_) => None,
    });
    let all = try_join_all(names.map(|name| {
        let deployments = deployments.clone();
        async move { await_condition(deployments, &name, available).await.map(drop) }
    }));
    match tokio::time::timeout(limit, all).await {
        Ok(outcome) => outcome.map(drop).context("cannot watch the deployments"),
        Err(_) => bail!(
            "not everything is available after {} s; kubectl get deployments,pods,events tells what is missing",
            limit.as_secs()
        ),
    }
}

/// Where the host reaches the service `web`: the listener of the node's gateway. Returns once it answers, since a
/// Deployment may be available a moment before the gateway has heard of it.
pub(crate) async fn web_address(client: &Client, limit: Duration) -> anyhow::Result<SocketAddrV4> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let web = services.get("web").await.context("cannot read the service web")?;
    let cluster_ip = web.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    let cluster_ip: Ipv4Addr =
        cluster_ip.parse().with_context(|| format!("web has no cluster IP: {cluster_ip:?}"))?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, outbound_port(cluster_ip, 0));
    let web = Upstream::at("web", address.ip().to_string(), address.port());
    let started = Instant::now();
    loop {
        let problem = match web.get("/").await {
            Ok((StatusCode::OK, _)) => return Ok(address),
            Ok((status, _)) => format!("status {status}"),
            Err(error) => chain(&error),
        };
        if started.elapsed() > limit {
            bail!("web is available but does not answer at http://{address}/: {problem}");
        }
        tokio::time::sleep(ANSWER_POLL).await;
    }
}

// === impl Object ===

impl Object {
    fn describe(&self) -> String {
        let (kind, metadata) = match self {
            Self::Service(service) => ("Service", &service.metadata),
            Self::Deployment(deployment) => ("Deployment", &deployment.metadata),
        };
        format!("{kind} {}", metadata.name.as_deref().unwrap_or_default())
    }
}

fn objects() -> anyhow::Result<Vec<Object>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(MANIFEST).context("the demo's manifest is not YAML")?;
    documents.into_iter().map(object).collect()
}

fn object(document: Value) -> anyhow::Result<Object> {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    Ok(match kind.as_str() {
        "Service" => Object::Service(Box::new(Service::deserialize(document)?)),
        "Deployment" => Object::Deployment(Box::new(Deployment::deserialize(document)?)),
        other => bail!("the demo's manifest holds a {other:?}, for which there is no code"),
    })
}

fn available(deployment: Option<&Deployment>) -> bool {
    let Some((deployment, status)) = deployment.and_then(|it| Some((it, it.status.as_ref()?))) else {
        return false;
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.available_replicas.unwrap_or(0) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_holds_three_parts_with_the_replicas_that_the_readme_names() {
        let replicas: Vec<_> = objects()
            .expect("it is embedded")
            .into_iter()
            .filter_map(|object| match object {
                Object::Deployment(it) => Some((it.metadata.name?, it.spec?.replicas?)),
                Object::Service(_) => None,
            })
            .collect();
        assert_eq!(replicas, [("api".to_owned(), 2), ("web".to_owned(), 3), ("client".to_owned(), 1)]);
    }

    #[test]
    fn a_deployment_is_available_only_with_a_current_status() {
        let deployment = |generation: i64, observed: i64, available: i32| -> Deployment {
            serde_json::from_value(serde_json::json!({
                "metadata": {"generation": generation},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": 2, "availableReplicas": available},
            }))
            .expect("a deployment")
        };
        assert!(!available(None));
        assert!(!available(Some(&deployment(2, 1, 2))), "the status is of an older generation");
        assert!(!available(Some(&deployment(1, 1, 1))));
        assert!(available(Some(&deployment(1, 1, 2))));
    }
}
