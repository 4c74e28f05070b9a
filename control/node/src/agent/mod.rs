//! The agent itself: puts the parts together, and takes them apart again.

pub(crate) mod events;
mod identity;
mod lease;
mod machine;
mod node;
mod pods;

pub(crate) use self::pods::PodTable;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    events::Recorder,
    identity::Identity,
    lease::{LeaseError, NodeLease},
    machine::Machine,
    node::{NodeReporter, Registration},
    pods::PodManager,
};
use crate::{
    config::{AgentConfig, RuntimeChoice, StopMode},
    gateway::{Gateway, GatewayConfig},
    kubelet_api::{KubeletApi, TlsError},
    pod::{NodeFacts, PodContext},
    runtime::{
        Runtime, RuntimeError,
        docker::{DockerConfig, DockerRuntime},
        process::{ProcessConfig, ProcessRuntime},
    },
};

/// A running node agent. Dropping it leaves it running; see [`Agent::stop`].
#[derive(Debug)]
pub struct Agent {
    kubelet_address: SocketAddr,
    gateway_admin: Option<SocketAddr>,
    runtime: Arc<dyn Runtime>,
    /// How to stop; the pods' manager and the gateway follow it.
    stop: watch::Sender<Option<StopMode>>,
    /// Ends everything that serves the pods: API, Lease, reports.
    services: CancellationToken,
    workloads: TaskTracker,
    tasks: TaskTracker,
    reporter: Arc<NodeReporter>,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path:?}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// Another agent of this machine has the data directory.
    #[error("another node agent uses the data directory {0:?}")]
    InUse(PathBuf),
    /// Another live agent has the node's name.
    #[error("node {node:?} is served by another agent ({holder}), which renewed its lease {seconds} s ago")]
    Duplicate {
        /// The name.
        node: String,
        /// Who has it.
        holder: String,
        /// How old its last sign of life is.
        seconds: i64,
    },
    /// The runtime cannot be used.
    #[error("the {name} runtime cannot be used: {reason}")]
    Runtime {
        /// Which.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// The kubelet API's address is not free.
    #[error("cannot listen on {address} for the kubelet API")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet API's certificates are not valid.
    #[error("the kubelet API's certificates cannot be used: {0}")]
    Tls(String),
    /// The cluster did not accept the node.
    #[error("cannot register node {node:?}")]
    Register {
        /// The name.
        node: String,
        /// The API server's answer.
        #[source]
        source: kube::Error,
    },
}

/// How long the start waits for the list of services; without it the first containers would miss their variables.
const SERVICES_PATIENCE: Duration = Duration::from_secs(10);

/// Starts an agent. It runs until [`Agent::stop`]; a cancelled `shutdown` stops it as [`StopMode::Detach`] does.
pub async fn start(config: AgentConfig, shutdown: CancellationToken) -> Result<Agent, Error> {
    let data_dir = config.data_dir.join("node");
    let identity = Identity::acquire(&data_dir)?;
    let data_dir = identity.directory().to_owned();
    let listener = TcpListener::bind(config.kubelet_listen)
        .await
        .map_err(|source| Error::Listen { address: config.kubelet_listen, source })?;
    let kubelet_address =
        listener.local_addr().map_err(|source| Error::Listen { address: config.kubelet_listen, source })?;
    let node_ip = config.node_ip.unwrap_or_else(|| machine::address_of(kubelet_address.ip()));
    let machine = Machine::read(&data_dir);

    let lease = NodeLease::new(&config, identity.holder().to_owned());
    lease.acquire().await.map_err(|error| match error {
        LeaseError::Held { holder, seconds } => {
            Error::Duplicate { node: config.node_name.clone(), holder, seconds }
        }
        LeaseError::Api(source) => Error::Register { node: config.node_name.clone(), source },
    })?;

    let runtime = open_runtime(&config, &data_dir).await?;
    let gateway = config
        .gateway
        .then(|| open_gateway(&config, &data_dir))
        .transpose()
        .map_err(|error| Error::Runtime { name: "gateway's", reason: weft_kit::error::chain(&error) })?;
    let gateway_admin = gateway.as_ref().map(Gateway::admin);

    let services_token = shutdown.child_token();
    let tasks = TaskTracker::new();
    let (events, send_events) =
        Recorder::new(config.client.clone(), config.node_name.clone(), services_token.clone());
    tasks.spawn(send_events);

    let registration = Registration {
        name: config.node_name.clone(),
        ip: node_ip,
        kubelet_port: kubelet_address.port(),
        gateway_admin,
        machine: machine.clone(),
    };
    let reporter = Arc::new(NodeReporter::new(
        config.client.clone(),
        registration,
        runtime.clone(),
        events.clone(),
        config.timing.clone(),
    ));
    reporter.register().await.map_err(|source| Error::Register { node: config.node_name.clone(), source })?;

    let service_store = watch_services(&config.client, &tasks, &services_token).await;
    let table = PodTable::default();
    let pods = Arc::new(PodContext {
        runtime: runtime.clone(),
        client: config.client.clone(),
        events: events.clone(),
        services: service_store,
        node: NodeFacts {
            name: config.node_name.clone(),
            ip: node_ip,
            cpu_millis: machine.cpu_millis(),
            memory_bytes: machine.memory_bytes(),
        },
        pods_dir: data_dir.join("pods"),
        ads: runtime.control_address(&config.ads),
        sidecar_concurrency: config.sidecar_concurrency,
        timing: config.timing.clone(),
    });

    let api = KubeletApi::new(&config.tls, runtime.clone(), table.clone(), config.metrics.clone())
        .map_err(|TlsError(reason)| Error::Tls(reason))?;
    tasks.spawn(api.serve(listener, services_token.clone()));
    let lost = shutdown.clone();
    tasks.spawn(lease.renew(services_token.clone(), lost));
    tasks.spawn(reporter.clone().run(services_token.clone()));

    let (stop, stopped) = watch::channel(None);
    let workloads = TaskTracker::new();
    let manager = PodManager::new(pods, table, &config.metrics);
    workloads.spawn(manager.run(stopped.clone()));
    if let Some(gateway) = gateway {
        workloads.spawn(gateway.run(stopped));
    }
    spawn_detach_on_shutdown(&stop, shutdown, &tasks, identity);
    tracing::info!(node = config.node_name, runtime = runtime.version(), %kubelet_address, "node agent started");
    Ok(Agent {
        kubelet_address,
        gateway_admin,
        runtime,
        stop,
        services: services_token,
        workloads,
        tasks,
        reporter,
    })
}

// === impl Agent ===

impl Agent {
    /// Where the kubelet API listens.
    pub fn kubelet_address(&self) -> SocketAddr {
        self.kubelet_address
    }

    /// Where the admin endpoint of the node's gateway listens, if there is a gateway.
    pub fn gateway_admin(&self) -> Option<SocketAddr> {
        self.gateway_admin
    }

    /// Name and version of the runtime, such as `process://0.1.0`.
    pub fn runtime_version(&self) -> String {
        self.runtime.version()
    }

    /// Stops the agent. With [`StopMode::Drain`] its workloads end first; the API server should live until then.
    pub async fn stop(self, mode: StopMode) {
        self.stop.send_replace(Some(mode));
        self.workloads.close();
        self.workloads.wait().await;
        if mode == StopMode::Drain {
            if let Err(error) = self.runtime.remove_shared().await {
                tracing::warn!(
                    error = weft_kit::error::chain(&error),
                    "something of the runtime stays behind"
                );
            }
            self.reporter.say_goodbye().await;
        }
        self.services.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Resolves when the agent has stopped after its `shutdown` was cancelled. Workloads keep running.
    pub async fn stopped(self) {
        self.services.cancelled().await;
        self.stop(StopMode::Detach).await;
    }
}

async fn open_runtime(config: &AgentConfig, data_dir: &std::path::Path) -> Result<Arc<dyn Runtime>, Error> {
    match config.runtime {
        RuntimeChoice::Auto | RuntimeChoice::Process => {
            let process = ProcessConfig {
                state_dir: data_dir.join("process"),
                weft_binary: config.weft_binary.clone(),
                proxy_command: config.proxy_command(),
            };
            let runtime = ProcessRuntime::open(process).map_err(|error| Error::Runtime {
                name: "process",
                reason: weft_kit::error::chain(&error),
            })?;
            if !runtime.enforces_limits() {
                tracing::info!("control groups cannot be written, CPU and memory limits are not enforced");
            }
            Ok(Arc::new(runtime))
        }
        RuntimeChoice::Docker => {
            let docker = DockerConfig {
                data_dir: config.data_dir.clone(),
                weft_binary: config.weft_binary.clone(),
                proxy_binary: config.proxy_binary.clone(),
                dns_address: config.dns_address,
                cluster_domain: config.cluster_domain.clone(),
            };
            let runtime = DockerRuntime::open(docker)
                .await
                .map_err(|error| Error::Runtime { name: "docker", reason: weft_kit::error::chain(&error) })?;
            Ok(Arc::new(runtime))
        }
    }
}

fn open_gateway(config: &AgentConfig, data_dir: &std::path::Path) -> Result<Gateway, RuntimeError> {
    let gateway = GatewayConfig {
        node: config.node_name.clone(),
        directory: data_dir.join("gateway"),
        weft_binary: config.weft_binary.clone(),
        proxy_command: config.proxy_command(),
        ads: config.ads.clone(),
    };
    Gateway::open(gateway, config.client.clone())
}

/// A store of all services, filled once before this returns if the API server answers in time.
async fn watch_services(
    client: &kube::Client,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> reflector::Store<Service> {
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
    let stream = reflector(writer, stream.default_backoff());
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let follow = stream.for_each(|event| {
            if let Err(error) = event {
                tracing::debug!(%error, "the watch on services was interrupted");
            }
            std::future::ready(())
        });
        tokio::select! {
            () = follow => {}
            () = shutdown.cancelled() => {}
        }
    });
    if !matches!(tokio::time::timeout(SERVICES_PATIENCE, store.wait_until_ready()).await, Ok(Ok(()))) {
        tracing::warn!("the list of services is not there yet, the first containers may miss some variables");
    }
    store
}

/// A cancelled token detaches, unless somebody said otherwise before. The identity's lock is held as long.
fn spawn_detach_on_shutdown(
    stop: &watch::Sender<Option<StopMode>>,
    shutdown: CancellationToken,
    tasks: &TaskTracker,
    identity: Identity,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        let mut stopped = stop.subscribe();
        tokio::select! {
            () = shutdown.cancelled() => {
                stop.send_if_modified(|mode| mode.replace(mode.unwrap_or(StopMode::Detach)).is_none());
            }
            _ = stopped.wait_for(Option::is_some) => {}
        }
        drop(identity);
    });
}
