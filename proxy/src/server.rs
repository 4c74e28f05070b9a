//! A running proxy: start it, look at it, drain it, stop it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, Subscriptions,
    client::{ClientConfig, ConfigSink},
    load::ReportConfig,
    pb::envoy::config::bootstrap::v3::Bootstrap,
};

use crate::{
    admin::{self, Admin},
    config::{
        ConfigError, Path,
        bootstrap::{self, Settings},
        state::State,
    },
    load::Loads,
    worker::{Shared, threads},
};

/// How a proxy runs, beside its bootstrap.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data threads; at least one.
    pub concurrency: usize,
    /// How long a drain may take.
    pub drain_time: Duration,
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
    workers: Vec<JoinHandle<()>>,
    background: JoinSet<()>,
    shutdown: CancellationToken,
    quit: CancellationToken,
}

/// Hands what the xDS client receives to the state.
struct Sink(Arc<Mutex<State>>);

/// How often a drain looks whether the last connection ended.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Checks a bootstrap without starting or opening anything.
pub fn validate(message: Bootstrap) -> Result<(), ConfigError> {
    let settings = bootstrap::read(message)?;
    bootstrap::validate(&settings, &Shared::new(1))
}

// === impl Server ===

impl Server {
    /// Starts a proxy. When this returns, the static listeners accept.
    pub async fn start(message: Bootstrap, options: Options) -> Result<Self, StartError> {
        let settings = bootstrap::read(message).map_err(StartError::Config)?;
        let shared = Arc::new(Shared::new(options.concurrency.max(1)));
        bootstrap::validate(&settings, &shared).map_err(StartError::Config)?;
        let (bindings, told) = watch::channel(Some(Arc::default()));
        let state = State::new(Arc::clone(&shared), bindings, tokio::runtime::Handle::current());
        let state = Arc::new(Mutex::new(state));
        put_static(&mut state.lock(), &settings).map_err(StartError::Config)?;
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
            drain_time: options.drain_time,
            workers,
            background: JoinSet::new(),
            shutdown: CancellationToken::new(),
            quit: CancellationToken::new(),
        };
        server.start_background(&settings, admin_socket);
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

    /// Resolves when the proxy was asked over its admin address to end.
    pub async fn quit_requested(&self) {
        self.quit.cancelled().await;
    }

    /// Stops accepting, lets what is in flight finish, and ends; at the latest after the drain time.
    pub async fn drain(self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.state.lock().stop_listening();
        let deadline = Instant::now() + self.drain_time;
        // One round for the workers to take in what waited in the sockets.
        tokio::time::sleep(DRAIN_POLL).await;
        loop {
            let open = self.shared.registry.open_connections();
            if open == 0 {
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
        self.background.shutdown().await;
    }

    fn start_background(&mut self, settings: &Settings, admin_socket: Option<TcpListener>) {
        if let Some(socket) = admin_socket {
            let mut awaits = Vec::new();
            awaits.extend(settings.clusters_over_ads.then_some(ResourceType::Cluster));
            awaits.extend(settings.listeners_over_ads.then_some(ResourceType::Listener));
            let admin = Admin::new(
                Arc::clone(&self.state),
                Arc::clone(&self.shared),
                settings.node.clone(),
                awaits,
                self.drain_time,
                self.quit.clone(),
            );
            self.background.spawn(admin::serve(socket, Arc::new(admin), self.shutdown.clone()));
        }
        if let Some((server, protocol)) = &settings.ads {
            let mut config = ClientConfig::new(server.clone(), settings.node.clone());
            config.protocol = *protocol;
            let sink = Sink(Arc::clone(&self.state));
            self.background.spawn(weft_xds::client::run(config, sink, self.shutdown.clone()));
        }
        if let Some(server) = &settings.load_reports {
            let config = ReportConfig::new(server.clone(), settings.node.clone());
            let loads = Loads::new(Arc::clone(&self.state));
            self.background.spawn(weft_xds::load::report(config, loads, self.shutdown.clone()));
        }
    }
}

fn put_static(state: &mut State, settings: &Settings) -> Result<(), ConfigError> {
    let path = Path::root("static_resources");
    for (index, message) in settings.clusters.iter().enumerate() {
        state.set_cluster(&path.item("clusters", index), message.clone(), true)?;
    }
    for (index, message) in settings.listeners.iter().enumerate() {
        state.set_listener(&path.item("listeners", index), message.clone(), true)?;
    }
    Ok(())
}

// === impl Sink ===

impl ConfigSink for Sink {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        self.0.lock().apply(update)
    }

    fn wanted(&self) -> Subscriptions {
        self.0.lock().wanted()
    }

    fn connected(&mut self, connected: bool) {
        self.0.lock().updates.connected = connected;
        tracing::info!(connected, "control plane");
    }
}
