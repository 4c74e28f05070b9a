//! What an agent is told from outside. Plain data; nothing here reads the environment.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// Everything that one node agent needs to know.
#[derive(Clone)]
pub struct AgentConfig {
    /// Name of the Node object; one live agent per name.
    pub node_name: String,
    /// The way to the cluster.
    pub client: kube::Client,
    /// Where this agent keeps what must outlive it. One agent per directory, guarded by a lock file.
    pub data_dir: PathBuf,
    /// Which runtime starts the containers.
    pub runtime: RuntimeChoice,
    /// Where sidecars find the mesh control service.
    pub ads: AdsAddress,
    /// The mesh's DNS server; containers of the Docker runtime resolve names there.
    pub dns_address: Option<SocketAddr>,
    /// Suffix of service names; Kubernetes' default is `cluster.local`.
    pub cluster_domain: String,
    /// Where the kubelet API listens; port 0 lets the kernel choose.
    pub kubelet_listen: SocketAddr,
    /// Address that the Node object names; `None`: that of `kubelet_listen`, or if that is a wildcard the one that
    /// the default route leaves from.
    pub node_ip: Option<IpAddr>,
    /// Certificates of the kubelet API.
    pub tls: NodeTls,
    /// Our own binary: `weft shim`, `weft pause`, `weft demo` and, without `proxy_binary`, `weft proxy`.
    pub weft_binary: PathBuf,
    /// The slim proxy, if it is beside us.
    pub proxy_binary: Option<PathBuf>,
    /// Worker threads of each sidecar. One serves tens of thousands of requests per second; a sidecar per pod with a
    /// thread per core would cost memory that nobody uses.
    pub sidecar_concurrency: u32,
    /// Whether this agent runs the node's gateway, through which the host reaches services.
    pub gateway: bool,
    /// Timers; the defaults are Kubernetes' unless the field says otherwise.
    pub timing: Timing,
    /// Where the agent's own counters are registered.
    pub metrics: prometheus::Registry,
}

/// Which runtime starts the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// The process runtime: it works on every machine, needs no root and starts in milliseconds. Docker is used only
    /// where it is asked for, because whether an Engine happens to run must not change what a command does.
    #[default]
    Auto,
    /// Docker Engine, 20.10 or newer; needs root, to capture traffic in the pods' network namespaces.
    Docker,
    /// Child processes with loopback addresses of their own.
    Process,
}

/// Host and port of the mesh control service as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdsAddress {
    /// Name or IP address. For containers a loopback address is replaced by the address of the bridge's gateway.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// PEM texts for the kubelet API.
#[derive(Clone)]
pub struct NodeTls {
    /// Server certificate chain.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// Issuer of the client certificates that are let in.
    pub client_ca_pem: String,
}

/// Intervals and bounds.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How often the node's Lease is renewed (kubelet: 10 s).
    pub lease_renew: Duration,
    /// How long a Lease counts after its last renewal (kubelet: 40 s).
    pub lease_duration: Duration,
    /// How often the Node's status is reported although nothing changed (kubelet: 5 min).
    pub node_status: Duration,
    /// How often a pod is looked at although nothing happened; projected volumes are refreshed then.
    pub resync: Duration,
    /// How long a sidecar may take from its start until it is ready before it is started again.
    pub sidecar_ready: Duration,
    /// Most time between a pod's deletion and its SIGTERM in which the proxies acknowledge that they do not use it any more.
    pub out_of_rotation: Duration,
    /// Most time that a pod's last requests hold up its SIGTERM.
    pub drain_max: Duration,
    /// Grace period of pods when the agent stops for good; a pod's own, if shorter, holds.
    pub stop_grace: Duration,
}

/// What happens to the workloads when the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// They keep running, and the next agent on this data directory adopts them.
    Detach,
    /// They are stopped, and no process, container or network stays behind. The pods stay in the cluster.
    Drain,
}

/// Why a runtime's name was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown runtime {0:?}; one of auto, docker, process")]
pub struct UnknownRuntime(String);

/// Resolves when the agent is told to stop.
pub(crate) async fn told_to_stop(stop: &mut tokio::sync::watch::Receiver<Option<StopMode>>) -> StopMode {
    let told = stop.wait_for(Option::is_some).await;
    // Without a sender nobody can ask for a drain any more.
    told.ok().and_then(|mode| *mode).unwrap_or(StopMode::Detach)
}

// === impl RuntimeChoice ===

impl FromStr for RuntimeChoice {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "docker" => Ok(Self::Docker),
            "process" => Ok(Self::Process),
            other => Err(UnknownRuntime(other.to_owned())),
        }
    }
}

// === impl AgentConfig ===

impl AgentConfig {
    /// A configuration with the defaults for everything that has one: process runtime, gateway on, kubelet API on a
    /// port of loopback that the kernel chooses.
    pub fn new(
        node_name: impl Into<String>,
        client: kube::Client,
        data_dir: impl Into<PathBuf>,
        ads: AdsAddress,
        tls: NodeTls,
        weft_binary: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            client,
            data_dir: data_dir.into(),
            runtime: RuntimeChoice::default(),
            ads,
            dns_address: None,
            cluster_domain: "cluster.local".into(),
            kubelet_listen: (Ipv4Addr::LOCALHOST, 0).into(),
            node_ip: None,
            tls,
            weft_binary: weft_binary.into(),
            proxy_binary: None,
            sidecar_concurrency: 1,
            gateway: true,
            timing: Timing::default(),
            metrics: prometheus::Registry::new(),
        }
    }

    /// The command that runs a proxy, without its flags.
    pub(crate) fn proxy_command(&self) -> Vec<String> {
        match &self.proxy_binary {
            Some(binary) => vec![binary.to_string_lossy().into_owned()],
            None => vec![self.weft_binary.to_string_lossy().into_owned(), "proxy".into()],
        }
    }
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client and the private key have no place in a log.
        f.debug_struct("AgentConfig")
            .field("node_name", &self.node_name)
            .field("data_dir", &self.data_dir)
            .field("runtime", &self.runtime)
            .field("ads", &self.ads)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").finish_non_exhaustive()
    }
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_renew: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            node_status: Duration::from_secs(300),
            resync: Duration::from_secs(60),
            sidecar_ready: Duration::from_secs(15),
            // Proxies are back 5 s after control; two more to be told and to answer.
            out_of_rotation: Duration::from_secs(7),
            drain_max: Duration::from_secs(10),
            stop_grace: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_chosen_by_name_and_others_are_named_in_the_error() {
        assert_eq!("docker".parse(), Ok(RuntimeChoice::Docker));
        let error = "podman".parse::<RuntimeChoice>().expect_err("not a runtime");
        assert!(error.to_string().contains("\"podman\""));
    }
}
