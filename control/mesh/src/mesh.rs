//! Puts the parts together.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use weft_discovery::{kubernetes, model::MeshState};
use weft_kit::error::chain;
use weft_xds::{
    load::LrsService,
    server::{Admission, AdsService, Listener, SnapshotCache, serve_admitted},
};

use crate::{
    admission::ByToken,
    catalog::Catalog,
    leave::{Departures, Leave},
    load::Loads,
    metrics_api::{self, AggregatedApi, MetricsService, Scraper},
    proxies_api::{self, ProxiesService},
    publisher::{Given, Observer, Publisher},
    status::{Answers, Keeper},
    telemetry::Telemetry,
    tls::Tls,
    warnings,
};

/// How the mesh control works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where proxies connect; port 0 for any.
    pub ads_listen: Vec<SocketAddr>,
    /// Certificate and key of those addresses; without, only plain text is spoken.
    pub tls: Option<Arc<ServerConfig>>,
    /// Beside loopback, the addresses of ours at which plain text is spoken too: those of networks within this machine.
    pub plain_text: Vec<IpAddr>,
    /// Whether a proxy must prove who it is, with a token that the API server believes.
    pub tokens: bool,
    /// How often proxies report their load.
    pub load_interval: Duration,
    /// How long a proxy may leave a response unanswered; `None` for what [`AdsService`] has.
    pub answer_limit: Option<Duration>,
    /// Where its metrics are registered.
    pub registry: Registry,
}

/// Why the mesh control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen for proxies on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its metrics clash with those that are there.
    #[error("cannot register the metrics of the mesh control")]
    Metrics(#[source] prometheus::Error),
}

/// The running mesh control.
pub struct Mesh {
    addresses: Vec<SocketAddr>,
    state: watch::Receiver<Arc<MeshState>>,
    cache: SnapshotCache,
    metrics: MetricsService,
    proxies: AggregatedApi<ProxiesService>,
    tasks: JoinSet<()>,
}

/// Starts the mesh control for the cluster behind `client`; it ends after `shutdown`.
pub async fn start(client: Client, config: Config, shutdown: CancellationToken) -> Result<Mesh, StartError> {
    let mut listeners = Vec::new();
    for address in &config.ads_listen {
        let bind = async {
            let listener = TcpListener::bind(address).await?;
            let bound = listener.local_addr()?;
            Ok((bound, listener))
        };
        listeners.push(bind.await.map_err(|source| StartError::Bind { address: *address, source })?);
    }
    let addresses: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();

    let telemetry = Arc::new(Telemetry::new(&config.registry).map_err(StartError::Metrics)?);
    let loads = Loads::new(&config.registry).map_err(StartError::Metrics)?;
    let cache = SnapshotCache::new();
    config.registry.register(cache.collector()).map_err(StartError::Metrics)?;

    let state = kubernetes::watch(client.clone(), shutdown.clone());
    let (changed, received) = mpsc::unbounded_channel();
    cache.observe(Arc::new(Observer { changed, telemetry: telemetry.clone() }));
    let (warnings, reports) = warnings::channel();
    let answers = Arc::new(Answers::default());
    cache.observe(answers.clone());
    let keeper = Keeper {
        client: client.clone(),
        state: state.clone(),
        cache: cache.clone(),
        answers,
        events: warnings.reporter(),
    };
    let departures = Arc::new(Departures::default());
    cache.observe(departures.clone());
    let (given, rounds) = watch::channel(Given::default());
    let leave = Leave { client: client.clone(), cache: cache.clone(), given: rounds, departures };
    let publisher = Publisher {
        state: state.clone(),
        changed: received,
        cache: cache.clone(),
        telemetry,
        warnings,
        catalog: Catalog::default(),
        proxies: Default::default(),
        given,
    };
    let scraper = Scraper::new(client.clone());
    let metrics = MetricsService::new(client.clone(), scraper.clone(), loads.clone(), state.clone());

    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run(shutdown.clone()));
    tasks.spawn(reports.run(client.clone(), shutdown.clone()));
    tasks.spawn(keeper.run(shutdown.clone()));
    tasks.spawn(leave.run(shutdown.clone()));
    tasks.spawn(scraper.run(shutdown.clone()));
    let mut ads = AdsService::new(cache.clone(), shutdown.clone());
    if let Some(limit) = config.answer_limit {
        ads = ads.answer_limit(limit);
    }
    let lrs = LrsService::new(Arc::new(loads), config.load_interval, shutdown.clone());
    let admission: Option<Arc<dyn Admission>> =
        if config.tokens { Some(Arc::new(ByToken::new(client, state.clone()))) } else { None };
    for (address, listener) in listeners {
        let listener = match &config.tls {
            None => Listener::Tcp(listener),
            Some(tls) => {
                let plain_text = address.ip().is_loopback() || config.plain_text.contains(&address.ip());
                Listener::Secure(listener, Arc::new(Tls { config: tls.clone(), plain_text }))
            }
        };
        let (ads, lrs) = (ads.clone(), lrs.clone());
        let serving = serve_admitted(listener, ads, lrs, admission.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                error!(%address, error = chain(&error), "stopped serving proxies");
            }
        });
        info!(%address, "serving proxies");
    }
    let proxies = proxies_api::api(&cache, shutdown);
    Ok(Mesh { addresses, state, cache, metrics, proxies, tasks })
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            ads_listen: vec![([127, 0, 0, 1], 0).into()],
            tls: None,
            plain_text: Vec::new(),
            tokens: false,
            load_interval: Duration::from_secs(5),
            answer_limit: None,
            registry: Registry::new(),
        }
    }
}

// === impl Mesh ===

impl Mesh {
    /// Where proxies connect, in the order of the configuration.
    pub fn ads_addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The state of the mesh, as it changes; the DNS server answers from it.
    pub fn mesh_state(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.clone()
    }

    /// What each proxy was given, and what it said to that.
    pub fn snapshots(&self) -> &SnapshotCache {
        &self.cache
    }

    /// The API groups that the API server is to serve for the mesh.
    pub fn metrics_api(&self) -> Vec<AggregatedApi> {
        metrics_api::apis(&self.metrics)
    }

    /// The API of the proxies, to be served beside.
    pub fn proxies_api(&self) -> AggregatedApi<ProxiesService> {
        self.proxies.clone()
    }

    /// Returns when everything has ended, which it does after the shutdown.
    pub async fn stopped(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task of the mesh control failed");
            }
        }
    }
}
