//! A server that can be made to misbehave while it serves.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// The field in which each says its name.
pub(super) const NAME: &str = "x-backend";
/// The path that health checks ask for.
pub(super) const HEALTH: &str = "/healthz";

/// A server with a name.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    state: Arc<State>,
    /// `None` while it is dead.
    serving: Option<JoinSet<()>>,
}

/// What a server does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Conduct {
    /// Answers after a while.
    Answer(Duration),
    /// Says this status at once.
    Say(u16),
    /// Reads it and never answers, and does the same with questions about its health.
    Hang,
}

#[derive(Debug)]
struct State {
    name: HeaderValue,
    conduct: Mutex<Conduct>,
    healthy: AtomicBool,
    asked: AtomicUsize,
    active: AtomicUsize,
    most: AtomicUsize,
}

/// What all do that are well.
const WELL: Conduct = Conduct::Answer(Duration::from_millis(4));

// === impl Backend ===

impl Backend {
    pub(super) async fn start(name: &'static str) -> anyhow::Result<Self> {
        Self::start_at(name, ([127, 0, 0, 1], 0).into()).await
    }

    pub(super) async fn start_at(name: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let state = State {
            name: HeaderValue::from_static(name),
            conduct: Mutex::new(WELL),
            healthy: AtomicBool::new(true),
            asked: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        let mut backend = Self { name, address, state: Arc::new(state), serving: None };
        backend.revive().await?;
        Ok(backend)
    }

    /// One for each name.
    pub(super) async fn start_all<const N: usize>(names: [&'static str; N]) -> anyhow::Result<[Self; N]> {
        let started = futures::future::try_join_all(names.map(Self::start)).await?;
        started.try_into().map_err(|_| anyhow::anyhow!("one for each name"))
    }

    /// Ends as a process does that is killed: its sockets close, whatever is under way.
    pub(super) async fn kill(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            serving.shutdown().await;
        }
    }

    /// Starts again where it was.
    pub(super) async fn revive(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("cannot listen on {}", self.address))?;
        self.address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&self.state)));
        self.serving = Some(serving);
        Ok(())
    }

    pub(super) fn becomes(&self, conduct: Conduct) {
        *self.state.conduct.lock().unwrap_or_else(PoisonError::into_inner) = conduct;
    }

    /// What it says when it is asked for its health; it serves nevertheless.
    pub(super) fn says_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Requests that it got so far, without questions about its health.
    pub(super) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// The most requests that it had at a time.
    pub(super) fn most_at_a_time(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

/// The sum of [`Backend::asked`].
pub(super) fn asked(backends: &[Backend]) -> usize {
    backends.iter().map(Backend::asked).sum()
}

pub(super) fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Ends with the task: connections of a server that is dead must not live on.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, &state));
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &State,
) -> Result<Response<Empty<bytes::Bytes>>, Infallible> {
    let conduct = *state.conduct.lock().unwrap_or_else(PoisonError::into_inner);
    let is_check = request.uri().path() == HEALTH;
    let _busy = (!is_check).then(|| Busy::new(state));
    let status = match conduct {
        Conduct::Hang => std::future::pending().await,
        _ if is_check && state.healthy.load(Ordering::SeqCst) => 200,
        _ if is_check => 503,
        Conduct::Say(status) => status,
        Conduct::Answer(after) => {
            tokio::time::sleep(after).await;
            200
        }
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(NAME, state.name.clone());
    Ok(response)
}

/// A request that is being worked on.
struct Busy<'s>(&'s State);

// === impl Busy ===

impl<'s> Busy<'s> {
    fn new(state: &'s State) -> Self {
        state.asked.fetch_add(1, Ordering::SeqCst);
        let active = state.active.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(active, Ordering::SeqCst);
        Self(state)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}
