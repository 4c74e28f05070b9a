//! The node's gateway: one proxy process through which this machine reaches the cluster's services.
//!
//! It runs under a shim like a container of the process runtime, whatever the runtime of the pods, and survives the
//! agent in the same way.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use weft_api::mesh::{ADMIN_PORT, ProxyId, TrafficMode};
use weft_kit::backoff::Backoff;

use crate::{
    config::{AdsAddress, StopMode, told_to_stop},
    runtime::{
        Container, ContainerSpec, Limits, PodRef, PodUid, PullPolicy, Role, Runtime as _, RuntimeError,
        Sandbox, Security,
        process::{ProcessConfig, ProcessRuntime},
    },
    sidecar::{BootstrapInputs, Subject, TokenFile, bootstrap},
};

/// What a gateway is told.
#[derive(Debug, Clone)]
pub(crate) struct GatewayConfig {
    pub(crate) node: String,
    pub(crate) directory: PathBuf,
    pub(crate) weft_binary: PathBuf,
    pub(crate) proxy_command: Vec<String>,
    pub(crate) ads: AdsAddress,
}

/// Keeps the proxy running.
pub(crate) struct Gateway {
    config: GatewayConfig,
    /// With which the proxy asks mesh control.
    token: TokenFile,
    client: kube::Client,
    runtime: ProcessRuntime,
    sandbox: Sandbox,
    admin: SocketAddr,
}

const NAME: &str = "weft-gateway";
const TOKEN: &str = "token";
const IMAGE: &str = "weft.dev/proxy:latest";
/// How long the proxy gets to finish what it has when the agent stops for good.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// A proxy that ran for so long did not end because of its start.
const STABLE: Duration = Duration::from_secs(60);
/// How often the proxy is looked at although nothing happened.
const LOOK: Duration = Duration::from_secs(10);

// === impl Gateway ===

impl Gateway {
    /// Finds the proxy of an earlier agent, if there is one, and chooses the admin address otherwise.
    pub(crate) fn open(config: GatewayConfig, client: kube::Client) -> Result<Self, RuntimeError> {
        let runtime = ProcessRuntime::open(ProcessConfig {
            state_dir: config.directory.join("state"),
            weft_binary: config.weft_binary.clone(),
            proxy_command: config.proxy_command.clone(),
        })?;
        let uid =
            PodUid::new(NAME).ok_or_else(|| RuntimeError::Failed("the gateway has no valid uid".into()))?;
        let pod = PodRef { uid, namespace: "kube-system".into(), name: format!("{NAME}-{}", config.node) };
        let localhost = Ipv4Addr::LOCALHOST;
        let sandbox = Sandbox { pod, pod_ip: localhost, sidecar_ip: localhost, handle: String::new() };
        let admin =
            admin_address(&config.directory).map_err(RuntimeError::io("choose the gateway's admin port"))?;
        let subject = Subject {
            namespace: "kube-system".into(),
            account: NAME.into(),
            kind: "Node",
            name: config.node.clone(),
            uid: None,
        };
        let token = TokenFile::new(subject, config.directory.join(TOKEN), None);
        Ok(Self { config, token, client, runtime, sandbox, admin })
    }

    /// Where the proxy's admin endpoint is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Keeps the proxy running until the agent stops; with [`StopMode::Drain`] it ends as well.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<Option<StopMode>>) {
        let mut changes = self.runtime.changes();
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut started = Instant::now();
        let mode = loop {
            let mut pause = LOOK;
            match self.ensure().await {
                Ok(false) if started.elapsed() > STABLE => backoff.reset(),
                Ok(false) => {}
                Ok(true) => {
                    started = Instant::now();
                    // Not waited for if it keeps running: a change or the next look comes first.
                    let delay = backoff.next_delay();
                    tracing::debug!("gateway started");
                    tokio::time::sleep(delay.min(Duration::from_secs(1))).await;
                    pause = delay;
                }
                Err(error) => {
                    pause = backoff.next_delay();
                    tracing::warn!(
                        error = weft_kit::error::chain(&error),
                        "the gateway cannot be started, trying again"
                    );
                }
            }
            tokio::select! {
                _ = changes.recv() => tokio::time::sleep(Duration::from_millis(200)).await,
                () = tokio::time::sleep(pause) => {}
                mode = told_to_stop(&mut stop) => break mode,
            }
        };
        if mode == StopMode::Drain
            && let Err(error) = self.end().await
        {
            tracing::warn!(error = weft_kit::error::chain(&error), "the gateway cannot be stopped");
        }
    }

    /// `true`: it had to be started.
    async fn ensure(&mut self) -> Result<bool, RuntimeError> {
        if let Err(error) = self.token.renew(&self.client).await {
            return Err(RuntimeError::Failed(format!("no token for it: {}", weft_kit::error::chain(&error))));
        }
        let records = self.runtime.containers(&self.sandbox.pod.uid).await?;
        if records.iter().any(Container::is_running) {
            return Ok(false);
        }
        let attempt = records.iter().map(|record| record.attempt + 1).max().unwrap_or(0);
        for record in &records {
            self.runtime.remove(record).await?;
        }
        let file = bootstrap(&BootstrapInputs {
            id: ProxyId::Gateway { node: self.config.node.clone() },
            node: self.config.node.clone(),
            traffic: TrafficMode::Addressed,
            pod: None,
            admin: self.admin,
            ads: self.config.ads.clone(),
        });
        let path = self.config.directory.join("bootstrap.json");
        std::fs::write(&path, file.to_string()).map_err(RuntimeError::io("write the gateway's bootstrap"))?;
        let image = self.runtime.ensure_image(IMAGE, PullPolicy::Never, &|| {}).await;
        let image = image.map_err(|error| RuntimeError::Failed(error.to_string()))?;
        let spec = ContainerSpec {
            name: NAME.into(),
            role: Role::Sidecar,
            attempt,
            image,
            command: Vec::new(),
            args: vec![
                "-c".into(),
                path.to_string_lossy().into_owned(),
                "--last-good-config-path".into(),
                self.config.directory.join("last-good").to_string_lossy().into_owned(),
                "--xds-token-path".into(),
                self.config.directory.join(TOKEN).to_string_lossy().into_owned(),
            ],
            env: Vec::new(),
            working_dir: None,
            mounts: Vec::new(),
            limits: Limits::default(),
            security: Security::default(),
        };
        let container = self.runtime.start(&self.sandbox, &spec).await?;
        match container.exit().and_then(|exit| exit.error.clone()) {
            Some(reason) => Err(RuntimeError::Failed(reason)),
            None => Ok(true),
        }
    }

    async fn end(&self) -> Result<(), RuntimeError> {
        let uid = &self.sandbox.pod.uid;
        let deadline = Instant::now() + STOP_GRACE;
        for container in self.runtime.containers(uid).await? {
            self.runtime.stop(&container).await?;
        }
        while Instant::now() < deadline
            && self.runtime.containers(uid).await?.iter().any(Container::is_running)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.runtime.remove_pod(uid).await
    }
}

/// The address of the earlier run, so that what was printed or configured with it stays true; else Envoy's usual port,
/// else one that is free.
fn admin_address(directory: &std::path::Path) -> io::Result<SocketAddr> {
    let file = directory.join("admin-address");
    if let Some(address) = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(address);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ADMIN_PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    std::fs::write(file, address.to_string())?;
    Ok(address)
}
