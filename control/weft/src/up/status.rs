//! What `weft up` says about itself: a few lines for people, stable enough for scripts (`  KEY  VALUE`).

use std::{
    fmt,
    net::{SocketAddr, SocketAddrV4},
    path::Path,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, Secret, Service},
    },
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;

use super::ports::Ports;

/// What an earlier start left in the data directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    deployments: usize,
    jobs: usize,
    pods: usize,
    services: usize,
    others: usize,
}

/// What runs where.
#[derive(Debug)]
pub(super) struct Status<'a> {
    pub(super) ports: &'a Ports,
    pub(super) kubeconfig: &'a Path,
    pub(super) node_name: &'a str,
    pub(super) runtime: &'a str,
    pub(super) found: &'a Found,
    /// Where the gateway's admin endpoint listens.
    pub(super) gateway_admin: Option<SocketAddr>,
}

// === impl Found ===

impl Found {
    /// Counts the objects of users; what every cluster has from its start is not worth a word.
    pub(super) async fn read(client: &Client) -> Result<Self, kube::Error> {
        Ok(Self {
            deployments: count::<Deployment>(client).await?,
            jobs: count::<Job>(client).await?,
            pods: count::<Pod>(client).await?,
            services: count::<Service>(client).await?,
            others: count::<ConfigMap>(client).await? + count::<Secret>(client).await?,
        })
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.deployments, "deployment"),
            (self.jobs, "job"),
            (self.pods, "pod"),
            (self.services, "service"),
            (self.others, "other object"),
        ];
        let texts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, noun)| format!("{count} {noun}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        f.write_str(&texts.join(", "))
    }
}

async fn count<K>(client: &Client) -> Result<usize, kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug,
{
    let all = Api::<K>::all(client.clone()).list_metadata(&ListParams::default().match_any()).await?;
    let is_users = |namespace: Option<String>, name: String| {
        let system = namespace.is_some_and(|namespace| namespace.starts_with("kube-"));
        !system && name != "kubernetes" && name != "kube-root-ca.crt"
    };
    Ok(all.items.into_iter().filter(|object| is_users(object.namespace(), object.name_any())).count())
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ports, kubeconfig, .. } = self;
        let kubeconfig = kubeconfig.display();
        writeln!(f, "weft {}", env!("CARGO_PKG_VERSION"))?;
        if !self.found.is_empty() {
            writeln!(
                f,
                "  found       {} of an earlier start; workloads that still run are adopted, the others started again",
                self.found
            )?;
        }
        writeln!(f, "  api         https://{}", ports.api)?;
        writeln!(f, "  kubeconfig  {kubeconfig}")?;
        writeln!(f, "  node        {} ({})", self.node_name, self.runtime)?;
        writeln!(f, "  xds         {}", ports.xds)?;
        writeln!(f, "  dns         {}", ports.dns)?;
        writeln!(f, "  metrics     http://{}/metrics", ports.metrics)?;
        writeln!(f, "  targets     http://{}/targets", ports.metrics)?;
        if let Some(admin) = self.gateway_admin {
            writeln!(f, "  gateway     http://{admin}/stats/prometheus")?;
        }
        writeln!(f, "in another terminal:")?;
        writeln!(f, "  export KUBECONFIG={kubeconfig}")?;
        write!(f, "  kubectl get nodes,deployments,pods,services,endpointslices -A -o wide")
    }
}

/// The lines that follow once the demo is available.
#[derive(Debug)]
pub(super) struct DemoStatus {
    /// Where the host reaches `web`.
    pub(super) web: SocketAddrV4,
    pub(super) gateway_admin: Option<SocketAddr>,
}

impl fmt::Display for DemoStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { web, .. } = self;
        writeln!(f, "  curl http://{web}/")?;
        writeln!(f, "  wrk -t1 -c64 -d10 http://{web}/")?;
        writeln!(f, "  kubectl scale deployment web --replicas 6 && kubectl rollout status deployment web")?;
        writeln!(
            f,
            "  kubectl set env deployment web GREETING=hello && kubectl rollout status deployment web"
        )?;
        write!(f, "  kubectl logs -f deploy/client")?;
        match self.gateway_admin {
            Some(admin) => write!(f, "\n  curl http://{admin}/stats/prometheus"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_said_without_zeros() {
        let found = Found { deployments: 3, pods: 6, services: 1, ..Found::default() };
        assert_eq!(found.to_string(), "3 deployments, 6 pods, 1 service");
        assert!(Found::default().is_empty());
    }
}
