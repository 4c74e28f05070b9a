//! The sessions with servers that are asked for one type of resource each, beside the aggregated stream.
//!
//! A session is started when something in force names its server, and ended when nothing does any more.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, Subscriptions,
    client::{ClientConfig, ConfigSink, PollConfig, Service, poll, run},
    pb::envoy::config::core::v3::Node,
    transport::Secure,
};

use crate::config::{
    last_good::{self, LastGood, Origin},
    servers::{Means, ServerRef, ServerSource},
    state::State,
};

/// Finds the TLS that is spoken with a server.
pub(crate) type FindTls = Box<dyn Fn(&ServerRef) -> Option<Arc<dyn Secure>> + Send + Sync>;

/// Keeps one session with each server for each type that it is asked for.
pub(crate) struct Sources {
    state: Arc<Mutex<State>>,
    node: Node,
    tls: FindTls,
    /// With which servers are told who asks.
    token: Option<PathBuf>,
    sessions: BTreeMap<(ServerSource, ResourceType), Session>,
    tasks: JoinSet<()>,
}

/// A session that runs until this is dropped.
struct Session {
    /// Has it look at what is wanted.
    wanted_changed: Arc<Notify>,
    _stop: DropGuard,
}

/// Hands what one server gives of one type to the state, where it is known by its source as well.
struct Sink {
    state: Arc<Mutex<State>>,
    server: ServerSource,
    type_: ResourceType,
    last_good: Option<Arc<LastGood>>,
}

// === impl Sources ===

impl Sources {
    pub(crate) fn new(state: Arc<Mutex<State>>, node: Node, tls: FindTls, token: Option<PathBuf>) -> Self {
        Self { state, node, tls, token, sessions: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Starts and ends sessions until it is dropped, which ends all of them.
    pub(crate) async fn run(mut self) {
        let (changed, over_ads) = {
            let state = self.state.lock();
            (Arc::clone(&state.servers_changed), Arc::clone(&state.wanted_changed))
        };
        loop {
            self.sync();
            // What one gave may name what another one has.
            for session in self.sessions.values() {
                session.wanted_changed.notify_one();
            }
            if !self.sessions.is_empty() {
                over_ads.notify_one();
            }
            changed.notified().await;
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn sync(&mut self) {
        let wanted = self.state.lock().wanted_servers();
        self.sessions.retain(|session, _| wanted.contains(session));
        for (server, type_) in wanted {
            if !self.sessions.contains_key(&(server.clone(), type_)) {
                let session = self.start(&server, type_);
                self.sessions.insert((server, type_), session);
            }
        }
    }

    fn start(&mut self, server: &ServerSource, type_: ResourceType) -> Session {
        let (stop, wanted_changed) = (CancellationToken::new(), Arc::new(Notify::new()));
        let last_good = self.state.lock().last_good.clone();
        let resume_after = last_good.is_some().then_some(last_good::PATIENCE);
        let sink = Sink { state: Arc::clone(&self.state), server: server.clone(), type_, last_good };
        let address = server.server.address.clone();
        let secure = (self.tls)(&server.server);
        match server.means {
            Means::Stream(protocol) => {
                let mut config = ClientConfig::new(address, self.node.clone());
                config.secure = secure;
                config.metadata = server.server.metadata(self.token.as_ref());
                (config.backoff_base, config.backoff_max) = server.server.backoff;
                config.request_limit = server.server.request_limit;
                config.requests_delayed = Arc::clone(&self.state.lock().updates.requests_delayed);
                config.protocol = protocol;
                config.service = Service::Only(type_);
                config.resume_after = resume_after;
                config.wanted_changed = Arc::clone(&wanted_changed);
                self.tasks.spawn(run(config, sink, stop.clone()));
            }
            Means::Poll { every, timeout } => {
                let config = PollConfig {
                    server: address,
                    secure,
                    host: server.label(),
                    node: self.node.clone(),
                    type_,
                    every,
                    timeout,
                    resume: resume_after.is_some(),
                    wanted_changed: Arc::clone(&wanted_changed),
                };
                self.tasks.spawn(poll(config, sink, stop.clone()));
            }
        }
        tracing::info!(server = server.label(), %type_, means = ?server.means, "asking a server of its own");
        Session { wanted_changed, _stop: stop.drop_guard() }
    }
}

// === impl Sink ===

impl ConfigSink for Sink {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let origin = Origin { type_: self.type_, server: Some(self.server.clone()) };
        self.state.lock().apply_from(&origin, update)
    }

    fn wanted(&self) -> Subscriptions {
        self.state.lock().wanted_from(&self.server, self.type_)
    }

    fn in_effect(&self, type_: ResourceType) -> bool {
        self.state.lock().in_effect(type_)
    }

    fn connected(&mut self, connected: bool) {
        tracing::info!(connected, server = self.server.label(), type_ = %self.type_, "control plane");
        if let Some(last_good) = self.last_good.as_ref().filter(|_| connected) {
            last_good.reached(Some((&self.server, self.type_)));
        }
    }

    fn refused(&mut self, type_: ResourceType) {
        self.state.lock().updates.rejected(type_);
    }

    fn resume(&mut self) -> Vec<ResourceUpdate> {
        let server = Some((&self.server, self.type_));
        self.last_good.as_ref().map(|last_good| last_good.resume(&self.state, server)).unwrap_or_default()
    }
}
