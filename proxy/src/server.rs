//! A running proxy: start it, look at it, drain it, stop it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    FEATURE_ON_DEMAND, Rejected, ResourceType, ResourceUpdate, Subscriptions,
    client::{ClientConfig, ConfigSink, Protocol},
    load::ReportConfig,
    pb::envoy::config::bootstrap::v3::Bootstrap,
    transport::{self, BoxFuture, CallMetadata, Connection, Secure},
};

pub use crate::worker::drain::{DrainPlan, DrainStrategy};
use crate::{
    admin::{self, Admin},
    config::{
        ConfigError, Path,
        bootstrap::{self, Settings},
        files::Files,
        last_good::{self, LastGood, Origin},
        servers::ServerRef,
        source::Source,
        state::{State, Which, on_demand},
    },
    load::Loads,
    overload::tidy,
    runtime::Runtime,
    sources::Sources,
    tls::{ClientTls, Spoken},
    worker::{Shared, threads},
};

/// How a proxy runs, beside its bootstrap.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data threads; at least one.
    pub concurrency: usize,
    /// How long a drain may take, and how clients are told.
    pub drain: DrainPlan,
    /// What `/server_info` shows as options of the command line, beside those above.
    pub command_line: BTreeMap<&'static str, String>,
    /// Directory that keeps what a control plane gave, to start from when it is away; nothing is kept without one.
    pub last_good: Option<PathBuf>,
    /// File with a token that tells the control plane who this is.
    pub xds_token: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 1,
            drain: DrainPlan::default(),
            command_line: BTreeMap::new(),
            last_good: None,
            xds_token: None,
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bootstrap cannot be used.
    #[error("invalid configuration")]
    Config(#[source] ConfigError),
    /// The admin address cannot be listened on.
    #[error("cannot listen for admin requests on {address}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A data thread could not be started.
    #[error("cannot start data threads")]
    Threads(#[source] io::Error),
}

/// A proxy that runs until it is stopped. Must be started and used inside a tokio runtime: that one runs xDS, admin, name
/// resolution and health checks, never traffic.
pub struct Server {
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
    admin_address: Option<SocketAddr>,
    drain_time: Duration,
    command_line: BTreeMap<&'static str, String>,
    xds_token: Option<PathBuf>,
    workers: Vec<JoinHandle<()>>,
    background: JoinSet<()>,
    shutdown: CancellationToken,
    quit: CancellationToken,
}

/// Hands what the xDS client receives to the state.
struct Sink {
    state: Arc<Mutex<State>>,
    last_good: Option<Arc<LastGood>>,
}

/// Speaks TLS with a control plane.
#[derive(Debug)]
struct Secured(Arc<ClientTls>);

/// How often the files of certificates and keys are looked at: they are replaced hours before they must be.
const FILE_POLL: Duration = Duration::from_secs(1);
/// How long the last lines of an access log may take.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How often a drain looks whether the workers have taken their sockets.
const TAKE_POLL: Duration = Duration::from_millis(5);
/// How often a drain looks whether the last connection ended.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Checks a bootstrap without starting or opening anything.
pub fn validate(message: Bootstrap) -> Result<(), ConfigError> {
    let settings = bootstrap::read(message)?;
    bootstrap::validate(&settings, &Shared::new(1, DrainPlan::default()))
}

// === impl Server ===

impl Server {
    /// Starts a proxy. When this returns, the static listeners accept.
    pub async fn start(message: Bootstrap, options: Options) -> Result<Self, StartError> {
        // Said before it is taken apart; what cannot be said as JSON is only missing in the dump.
        let shown = weft_xds::json::to_json(&message).unwrap_or_default();
        let settings = bootstrap::read(message).map_err(StartError::Config)?;
        let mut shared = Shared::new(options.concurrency.max(1), options.drain);
        shared.runtime = Runtime::new(settings.runtime.layers.clone());
        shared.node_cluster.clone_from(&settings.node.cluster);
        shared.local = bootstrap::local_cluster(&settings);
        let shared = Arc::new(shared);
        bootstrap::validate(&settings, &shared).map_err(StartError::Config)?;
        let (bindings, told) = watch::channel(Some(Arc::default()));
        let state = State::new(Arc::clone(&shared), bindings, tokio::runtime::Handle::current());
        let state = Arc::new(Mutex::new(state));
        let (clusters_from, listeners_from) =
            (settings.clusters_from.clone(), settings.listeners_from.clone());
        state.lock().set_sources(clusters_from, listeners_from, &settings.servers);
        state.lock().await_runtime(&settings.runtime);
        state.lock().incremental =
            settings.ads.as_ref().is_some_and(|(_, protocol)| *protocol == Protocol::Delta);
        put_static(&mut state.lock(), &settings).map_err(StartError::Config)?;
        if let Some(directory) = options.last_good {
            state.lock().last_good = Some(Arc::new(LastGood::new(directory, settings.node.id.clone())));
        }
        let mut files = Files::new(Arc::clone(&state));
        files.sync();
        let admin_socket = match settings.admin {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address).await.map_err(|source| StartError::Admin { address, source })?,
            ),
        };
        let admin_address = admin_socket.as_ref().and_then(|socket| socket.local_addr().ok());
        let workers = (0..shared.workers)
            .map(|index| threads::start(index, Arc::clone(&shared), told.clone()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Threads)?;
        let mut server = Self {
            state,
            shared,
            admin_address,
            drain_time: options.drain.time,
            command_line: options.command_line,
            xds_token: options.xds_token,
            workers,
            background: JoinSet::new(),
            shutdown: CancellationToken::new(),
            quit: CancellationToken::new(),
        };
        let protection = bootstrap::protection(&settings).map_err(StartError::Config)?;
        if let Some(max) = protection.max_connections {
            server.shared.overload.limit_connections(max);
        }
        if let Some(manager) = protection.manager {
            server.background.spawn(manager.run(Arc::clone(&server.shared)));
        }
        server.background.spawn(files.run());
        server.start_background(&settings, admin_socket, shown);
        Ok(server)
    }

    /// Where admin requests are answered.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Where each listener listens, by name.
    pub fn listener_addresses(&self) -> BTreeMap<String, SocketAddr> {
        let state = self.state.lock();
        state
            .listeners
            .iter()
            .filter_map(|(name, entry)| Some((name.clone(), entry.bound.as_ref()?.address)))
            .collect()
    }

    /// Panics that the data threads survived so far; each ended one connection or stream. There should be none, ever.
    pub fn caught_panics(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.caught_panics)
    }

    /// Resolves when the proxy was asked over its admin address to end.
    pub async fn quit_requested(&self) {
        self.quit.cancelled().await;
    }

    /// Opens the files of access logs anew, for whoever moved them away.
    pub fn reopen_logs(&self) {
        for output in self.state.lock().log_outputs() {
            output.reopen();
        }
    }

    /// Stops accepting, lets what is in flight finish, and ends; at the latest after the drain time. Connections that
    /// waited to be accepted are served.
    pub async fn drain(self) {
        let deadline = Instant::now() + self.drain_time;
        self.state.lock().drain_listeners(Which::All);
        // A worker may not have run since a listener came.
        while !self.state.lock().is_listening_everywhere() && Instant::now() < deadline {
            tokio::time::sleep(TAKE_POLL).await;
        }
        let closing = self.state.lock().stop_listening(Which::All);
        loop {
            // Listeners live as long as their connections; those of listeners that are gone already are only counted.
            let ended = closing.iter().all(|bound| bound.strong_count() == 0);
            let open = self.shared.registry.open_connections();
            if ended && open == 0 {
                tracing::info!("drained");
                break;
            }
            if Instant::now() >= deadline {
                tracing::warn!(open, "drain time is over, closing the rest");
                break;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        self.stop().await;
    }

    /// Ends at once.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.state.lock().stop_workers();
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("a data thread had panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("cannot wait for the data threads");
        }
        // The workers have handed over all lines; what is stuck is not waited for.
        let outputs = self.state.lock().log_outputs();
        let written =
            tokio::task::spawn_blocking(move || outputs.iter().for_each(|log| log.drain(LOG_PATIENCE)));
        if written.await.is_err() {
            tracing::error!("cannot wait for the access logs");
        }
        self.background.shutdown().await;
        let state = Arc::clone(&self.state);
        let kept = tokio::task::spawn_blocking(move || {
            let last_good = state.lock().last_good.clone();
            last_good.is_none_or(|last_good| last_good.write(&state))
        });
        if kept.await.is_err() {
            tracing::error!("cannot wait for the last good configuration to be kept");
        }
    }

    /// What the server is told with each stream.
    fn metadata(&self, server: &ServerRef) -> CallMetadata {
        server.metadata(self.xds_token.as_ref())
    }

    fn start_background(
        &mut self,
        settings: &Settings,
        admin_socket: Option<TcpListener>,
        shown: serde_json::Value,
    ) {
        if let Some(socket) = admin_socket {
            let mut awaits = Vec::new();
            let from_server = |from: &Option<Source>| from.as_ref().is_some_and(Source::is_server);
            let clusters = (ResourceType::Cluster, settings.clusters_patience);
            awaits.extend(from_server(&settings.clusters_from).then_some(clusters));
            let listeners = (ResourceType::Listener, settings.listeners_patience);
            awaits.extend(from_server(&settings.listeners_from).then_some(listeners));
            let admin = Admin::new(
                Arc::clone(&self.state),
                Arc::clone(&self.shared),
                settings.node.clone(),
                awaits,
                self.drain_time,
                std::mem::take(&mut self.command_line),
                self.quit.clone(),
                shown,
            );
            self.background.spawn(admin::serve(socket, Arc::new(admin), self.shutdown.clone()));
        }
        let last_good = self.state.lock().last_good.clone();
        if let Some(last_good) = &last_good {
            self.background.spawn(Arc::clone(last_good).run(Arc::clone(&self.state)));
        }
        if let Some((server, protocol)) = &settings.ads {
            let mut config = ClientConfig::new(server.address.clone(), settings.node.clone());
            config.secure = secured(&self.state, server);
            config.metadata = self.metadata(server);
            (config.backoff_base, config.backoff_max) = server.backoff;
            config.request_limit = server.request_limit;
            config.requests_delayed = Arc::clone(&self.state.lock().updates.requests_delayed);
            config.protocol = *protocol;
            if *protocol == Protocol::Delta {
                config.node.client_features.push(FEATURE_ON_DEMAND.to_owned());
            }
            config.wanted_changed = Arc::clone(&self.state.lock().wanted_changed);
            config.resume_after = last_good.is_some().then_some(last_good::PATIENCE);
            let sink = Sink { state: Arc::clone(&self.state), last_good };
            self.background.spawn(weft_xds::client::run(config, sink, self.shutdown.clone()));
        }
        let state = Arc::clone(&self.state);
        let tls = Box::new(move |server: &ServerRef| secured(&state, server));
        let (state, token) = (Arc::clone(&self.state), self.xds_token.clone());
        let sources = Sources::new(state, settings.node.clone(), tls, token);
        self.background.spawn(sources.run());
        if let Some(asks) = self.shared.asks.take() {
            self.background.spawn(on_demand::run(Arc::clone(&self.state), asks));
        }
        self.background.spawn(tidy::run());
        let state = Arc::clone(&self.state);
        self.background.spawn(async move {
            let mut turns = tokio::time::interval(FILE_POLL);
            loop {
                turns.tick().await;
                let mut state = state.lock();
                state.refresh_files();
                state.stop_waiting();
                state.drop_idle();
            }
        });
        if let Some(server) = &settings.load_reports {
            let mut config = ReportConfig::new(server.address.clone(), settings.node.clone());
            config.secure = secured(&self.state, server);
            config.metadata = self.metadata(server);
            (config.backoff_base, config.backoff_max) = server.backoff;
            let loads = Loads::new(Arc::clone(&self.state));
            self.background.spawn(weft_xds::load::report(config, loads, self.shutdown.clone()));
        }
    }
}

/// The TLS of the cluster that the server is in.
fn secured(state: &Mutex<State>, server: &ServerRef) -> Option<Arc<dyn Secure>> {
    let state = state.lock();
    let tls = state.clusters.get(server.cluster.as_ref()?)?.cluster.tls.clone()?;
    Some(Arc::new(Secured(tls)))
}

fn put_static(state: &mut State, settings: &Settings) -> Result<(), ConfigError> {
    let path = Path::root("static_resources");
    for (index, secret) in settings.secrets.iter().enumerate() {
        state.set_static_secret(&path.item("secrets", index), secret.clone())?;
    }
    for (index, message) in settings.clusters.iter().enumerate() {
        state.set_cluster(&path.item("clusters", index), message.clone(), true)?;
    }
    state.list_clusters();
    for (index, message) in settings.listeners.iter().enumerate() {
        state.set_listener(&path.item("listeners", index), message.clone(), true)?;
    }
    Ok(())
}

// === impl Secured ===

impl Secure for Secured {
    fn secure(
        self: Arc<Self>,
        socket: TcpStream,
        spoken: transport::Spoken,
    ) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let address = socket.peer_addr()?;
            let spoken = match spoken {
                transport::Spoken::Http1 => Spoken::Http1,
                transport::Spoken::Http2 => Spoken::Http2,
            };
            let stream = self.0.connect_aside(socket, address, spoken).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

// === impl Sink ===

impl ConfigSink for Sink {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let causes: Vec<(String, SystemTime)> = update
            .upserts
            .iter()
            .filter_map(|resource| Some((resource.name.clone(), resource.caused_at?)))
            .collect();
        let mut state = self.state.lock();
        let applied = state.apply_from(&Origin { type_: update.type_, server: None }, update);
        let refused = applied.as_ref().err().map(Vec::as_slice).unwrap_or_default();
        let now = SystemTime::now();
        for (name, caused_at) in causes {
            if !refused.iter().any(|refused| refused.name == name) {
                state.shared.registry.propagation.record(caused_at, now);
            }
        }
        applied
    }

    fn wanted(&self) -> Subscriptions {
        self.state.lock().wanted()
    }

    fn in_effect(&self, type_: ResourceType) -> bool {
        self.state.lock().in_effect(type_)
    }

    fn connected(&mut self, connected: bool) {
        self.state.lock().updates.connected = connected;
        tracing::info!(connected, "control plane");
        if let Some(last_good) = self.last_good.as_ref().filter(|_| connected) {
            last_good.reached(None);
        }
    }

    fn refused(&mut self, type_: ResourceType) {
        self.state.lock().updates.rejected(type_);
    }

    fn resume(&mut self) -> Vec<ResourceUpdate> {
        self.last_good.as_ref().map(|last_good| last_good.resume(&self.state, None)).unwrap_or_default()
    }
}
