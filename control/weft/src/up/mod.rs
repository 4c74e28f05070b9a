//! `weft up`: a cluster in one process.
//!
//! [`run`] is the composition root: it starts every part in the order in which they need each other, and each talks to
//! the next one over the interface that it would use from another machine. What outlives a start is in the data
//! directory alone.

mod aggregate;
mod components;
pub(crate) mod data_dir;
mod metrics;
mod ports;
mod signals;
mod status;

use std::{
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kube::Client;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use weft_apiserver::ApiServer;
use weft_discovery::dns::{DnsConfig, DnsServer};
use weft_node::{AdsAddress, AgentConfig, NodeTls, RuntimeChoice, StopMode};
use weft_store::{EmbeddedStore, Options};

use self::{
    aggregate::aggregate,
    components::Components,
    metrics::{MetricsServer, Sources},
    ports::Ports,
    signals::StopSignals,
    status::{DemoStatus, Found, Status},
};
use crate::{
    cli::{Runtime, UpArgs},
    demo::manifest,
};

/// Group of those parts of control that Kubernetes has no user for.
const CONTROL: [&str; 1] = ["weft:control"];

/// How long the demo may take until all of it is available before we stop waiting and say what is missing.
const DEMO_LIMIT: Duration = Duration::from_secs(90);

/// How long the gateway may take to answer for `web` once it is available.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Runs a cluster until a signal ends it.
pub(crate) fn main(args: UpArgs) -> ExitCode {
    if let Err(error) = weft_kit::telemetry::init(&args.log_level) {
        eprintln!("{}", weft_kit::error::chain(&error));
        return ExitCode::FAILURE;
    }
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: UpArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut signals = StopSignals::listen()?;
    let data_dir = data_dir::prepare(args.data_dir.clone())?;
    // The store first: its lock tells whether a cluster runs on this directory already.
    let store = EmbeddedStore::open(&data_dir.join("store.redb"), Options::default())?;
    let ports = Ports::choose(&args, &data_dir)?;
    // Before anything is told of them: whatever outlives this process must find the next one there.
    ports.save(&data_dir)?;
    let node_name = args.node_name.clone().map_or_else(host_name, Ok)?;

    let shutdown = CancellationToken::new();
    let mut components = Components::new(shutdown.clone());

    let config =
        weft_apiserver::Config { listen: ports.api, ..weft_apiserver::Config::new(data_dir.clone()) };
    let api = weft_apiserver::start(config, Arc::new(store), shutdown.clone())
        .await
        .context("cannot start the API server")?;
    let registry = api.metrics_registry().clone();
    let kubeconfig = data_dir.join("kubeconfig");
    data_dir::write_secret(&kubeconfig, &api.admin_kubeconfig())?;
    let admin = api.client("system:weft-up", &CONTROL);
    let found = Found::read(&admin).await.context("cannot read what the store holds")?;

    // Containers reach this machine at its address in their network; nothing listens on any other address.
    let gateway = match args.runtime {
        Runtime::Docker => {
            Some(weft_node::prepare_docker(&data_dir).await.map_err(anyhow::Error::msg)?.gateway)
        }
        Runtime::Auto | Runtime::Process => None,
    };
    let with_gateway = |address: SocketAddr| {
        let inside = gateway.map(|gateway| SocketAddr::new(gateway.into(), address.port()));
        std::iter::once(address).chain(inside.filter(|inside| *inside != address))
    };
    let config = weft_mesh::Config {
        ads_listen: with_gateway(ports.xds).collect(),
        tls: Some(
            api.server_tls(&[&ports.xds.ip().to_string(), &node_name])
                .context("cannot set up TLS for xDS")?,
        ),
        plain_text: gateway.into_iter().map(Into::into).collect(),
        tokens: true,
        registry: registry.clone(),
        ..weft_mesh::Config::default()
    };
    let mesh = weft_mesh::start(api.client("system:weft-mesh", &CONTROL), config, shutdown.clone())
        .await
        .context("cannot start the mesh control")?;
    for aggregated in mesh.metrics_api() {
        aggregate(&api, aggregated);
    }
    aggregate(&api, mesh.proxies_api());

    let config = weft_scheduler::Config { registry: Some(registry.clone()), ..Default::default() };
    let client = api.client("system:kube-scheduler", &[]);
    components.spawn("scheduler", weft_scheduler::run(client, config, shutdown.clone()));

    let config = weft_controllers::Config {
        ca_pem: Some(api.pki().ca_pem().to_owned()),
        registry: Some(registry.clone()),
        ..Default::default()
    };
    let client = api.client("system:kube-controller-manager", &[]);
    components.spawn("controllers", weft_controllers::run(client, config, shutdown.clone()));

    for address in with_gateway(ports.dns) {
        let dns = DnsServer::bind(address, mesh.mesh_state(), DnsConfig::default()).await?;
        components.spawn("DNS server", dns.run(shutdown.clone()));
    }

    let metrics = MetricsServer::bind(ports.metrics)
        .await
        .with_context(|| format!("cannot listen for metrics on {}", ports.metrics))?;
    let sources = Sources { client: admin.clone() };
    components.spawn_infallible("metrics server", metrics.run(sources, shutdown.clone()));

    let config = agent_config(&args, &ports, &data_dir, &api, &node_name, registry)?;
    let agent = weft_node::start(config, shutdown.clone()).await.context("cannot start the node agent")?;

    let gateway_admin = agent.gateway_admin();
    let status = Status {
        ports: &ports,
        kubeconfig: &kubeconfig,
        node_name: &node_name,
        runtime: &agent.runtime_version(),
        found: &found,
        gateway_admin,
    };
    println!("{status}\nready after {:.1} s", started.elapsed().as_secs_f64());

    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        error = components.failure() => Err(error),
        () = serve(args.demo, &admin, gateway_admin, started) => Ok(()),
    };
    println!("stopping: the workloads drain; another Ctrl-C ends at once");
    let stop = async {
        agent.stop(StopMode::Drain).await;
        println!("  workloads stopped");
        components.stop().await;
        mesh.stopped().await;
        api.stopped().await;
    };
    tokio::select! {
        () = stop => println!("stopped"),
        () = signals.next() => bail!("ended before everything was stopped; the next start finds what is left"),
    }
    outcome
}

/// The node agent's configuration on this machine.
fn agent_config(
    args: &UpArgs,
    ports: &Ports,
    data_dir: &Path,
    api: &ApiServer,
    node_name: &str,
    metrics: Registry,
) -> anyhow::Result<AgentConfig> {
    let (cert_pem, key_pem) = api
        .pki()
        .issue_server(&[node_name, "127.0.0.1", "localhost"])
        .context("cannot issue the node's certificate")?;
    let tls = NodeTls { cert_pem, key_pem, client_ca_pem: api.pki().ca_pem().to_owned() };
    let ads = AdsAddress { host: ports.xds.ip().to_string(), port: ports.xds.port() };
    let client = api.client(&format!("system:node:{node_name}"), &["system:nodes"]);
    let weft = std::env::current_exe().context("cannot tell where the weft binary is")?;
    let slim = weft.with_file_name("weft-proxy");
    Ok(AgentConfig {
        runtime: match args.runtime {
            Runtime::Auto => RuntimeChoice::Auto,
            Runtime::Docker => RuntimeChoice::Docker,
            Runtime::Process => RuntimeChoice::Process,
        },
        dns_address: Some(ports.dns),
        proxy_binary: slim.is_file().then_some(slim),
        metrics,
        ..AgentConfig::new(node_name, client, data_dir, ads, tls, weft)
    })
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    // A node's name is a DNS name in lower case; hosts are named more freely.
    let name = name.trim().to_lowercase().replace('_', "-");
    Ok(if name.is_empty() { "localhost".to_owned() } else { name })
}

/// What happens while the cluster runs: the demo if it was asked for, else nothing; never ends.
async fn serve(with_demo: bool, client: &Client, gateway_admin: Option<SocketAddr>, started: Instant) {
    if with_demo && let Err(error) = demo(client, gateway_admin, started).await {
        // The cluster is as good as without the demo, and what is wrong is best looked at while it runs.
        eprintln!("demo: {error:#}");
    }
    std::future::pending().await
}

/// Applies the demo, waits for it and says what to try.
async fn demo(client: &Client, gateway_admin: Option<SocketAddr>, started: Instant) -> anyhow::Result<()> {
    let applied = manifest::apply(client).await?;
    println!("demo: {} objects created, {} were there and stay as they are", applied.created, applied.kept);
    manifest::wait_available(client, DEMO_LIMIT).await?;
    let web = manifest::web_address(client, ANSWER_LIMIT).await?;
    println!("{}", DemoStatus { web, gateway_admin });
    println!(
        "demo ready after {:.1} s: all of web, api and client are available",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
