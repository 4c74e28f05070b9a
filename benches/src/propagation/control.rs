//! The control service, with a clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use weft_discovery::model::MeshState;
use weft_xds::{
    ResourceType,
    load::{ClusterLoad, LoadSink, LrsService},
    pb::envoy::config::core::v3::Node,
    server::{AdsService, Listener, ProxyObserver, SnapshotCache, serve},
};

use super::world;

/// Without an answer for as long, all is answered.
const QUIET: Duration = Duration::from_millis(300);

/// What the control service is asked to do; one a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Wait until so many proxies have everything.
    Settle(usize),
    /// So many changes, this many milliseconds apart, each waited for.
    Single(usize, u64),
    /// So many changes with this many microseconds between them, nothing waited for but the end.
    Storm(usize, u64),
}

/// What it measured; one a line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Microseconds from each change to the last acknowledgement; of a storm, from the first change.
    pub micros: Vec<u64>,
    /// Acknowledgements of endpoint sets.
    pub answers: usize,
    /// Proxies that do not have the current state of some service, though all is quiet.
    pub behind: usize,
}

#[derive(Default)]
struct Clock(Mutex<(usize, Option<Instant>)>);

struct NoLoads;

/// Serves until standard input ends; the first line of output is the address.
pub async fn run(services: usize, endpoints: usize) -> anyhow::Result<()> {
    let (states, received) = watch::channel(Arc::new(world::mesh(services, endpoints)));
    let (cache, shutdown, registry) = (SnapshotCache::new(), CancellationToken::new(), Default::default());
    let clock = Arc::new(Clock::default());
    cache.observe(clock.clone());
    let mut received = received;
    received.mark_changed();
    let publisher = weft_mesh::publish(received, cache.clone(), &registry, shutdown.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot bind")?;
    println!("{}", listener.local_addr()?);
    let ads = AdsService::new(cache.clone(), shutdown.clone());
    let lrs = LrsService::new(Arc::new(NoLoads), Duration::from_secs(5), shutdown.clone());
    let serving = serve(Listener::Tcp(listener), ads, lrs, shutdown.clone());
    tokio::select! {
        ended = tokio::spawn(serving) => Ok(ended??),
        ended = publisher => ended.context("the publisher ended"),
        ended = obey(&states, &cache, &clock) => ended,
    }
}

async fn obey(
    states: &watch::Sender<Arc<MeshState>>,
    cache: &SnapshotCache,
    clock: &Clock,
) -> anyhow::Result<()> {
    let (told, mut lines) = mpsc::channel(1);
    // Ends with standard input, and so with the process that commands this one.
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).all(|line| told.blocking_send(line).is_ok())
    });
    while let Some(line) = lines.recv().await {
        let command: Command = serde_json::from_str(&line).context("not a command")?;
        let report = match command {
            Command::Settle(proxies) => settle(cache, clock, proxies).await,
            Command::Single(changes, gap) => {
                single(states, cache, clock, changes, Duration::from_millis(gap)).await
            }
            Command::Storm(changes, gap) => {
                storm(states, cache, clock, changes, Duration::from_micros(gap)).await
            }
        };
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

async fn settle(cache: &SnapshotCache, clock: &Clock, proxies: usize) -> Report {
    let started = Instant::now();
    // The last to come asks for routes after it has everything else.
    while cache.connected().len() < proxies {
        sleep(Duration::from_millis(50)).await;
    }
    until_quiet(cache, clock, started).await
}

async fn single(
    states: &watch::Sender<Arc<MeshState>>,
    cache: &SnapshotCache,
    clock: &Clock,
    changes: usize,
    gap: Duration,
) -> Report {
    let mut report = Report::default();
    for number in 0..changes {
        clock.take();
        let next = world::change(&states.borrow(), number * 7);
        let started = Instant::now();
        states.send_replace(Arc::new(next));
        sleep(gap).await;
        let (answers, last) = clock.take();
        report.answers += answers;
        report.behind += behind(cache, std::iter::once(number * 7));
        report.micros.extend(last.map(|last| micros(last.saturating_duration_since(started))));
    }
    report
}

async fn storm(
    states: &watch::Sender<Arc<MeshState>>,
    cache: &SnapshotCache,
    clock: &Clock,
    changes: usize,
    gap: Duration,
) -> Report {
    clock.take();
    let started = Instant::now();
    for number in 0..changes {
        let next = world::change(&states.borrow(), number);
        states.send_replace(Arc::new(next));
        let due = started + gap * u32::try_from(number + 1).unwrap_or(u32::MAX);
        if gap.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep_until(due.into()).await;
        }
    }
    until_quiet(cache, clock, started).await
}

/// What was answered since a time, when all is.
async fn until_quiet(cache: &SnapshotCache, clock: &Clock, started: Instant) -> Report {
    while !clock.is_quiet(cache) {
        sleep(Duration::from_millis(50)).await;
    }
    let (answers, last) = clock.take();
    let micros = last.map(|last| micros(last.saturating_duration_since(started))).into_iter().collect();
    Report { micros, answers, behind: behind(cache, sample()) }
}

/// Connected proxies that are not in step with some service for which they asked.
fn behind(cache: &SnapshotCache, services: impl Iterator<Item = usize> + Clone) -> usize {
    let in_step = |id: &str| {
        let name = |number: usize| format!("service-{number}.default:80");
        services.clone().all(|number| {
            cache.is_acknowledged(id, ResourceType::ClusterLoadAssignment, &name(number)) != Some(false)
        })
    };
    cache.connected().iter().filter(|node| !in_step(&node.id)).count()
}

/// Some of all services.
fn sample() -> impl Iterator<Item = usize> + Clone {
    (0..1000).step_by(37)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

// === impl Clock ===

impl Clock {
    fn take(&self) -> (usize, Option<Instant>) {
        std::mem::take(&mut *self.0.lock())
    }

    fn is_quiet(&self, cache: &SnapshotCache) -> bool {
        let last = self.0.lock().1;
        cache.unanswered() == 0 && last.is_some_and(|last| last.elapsed() > QUIET)
    }
}

impl ProxyObserver for Clock {
    fn answered(&self, _proxy_id: &str, type_: ResourceType) {
        let mut clock = self.0.lock();
        clock.0 += usize::from(type_ == ResourceType::ClusterLoadAssignment);
        clock.1 = Some(Instant::now());
    }
}

impl LoadSink for NoLoads {
    fn report(&self, _node: &Node, _loads: &[ClusterLoad]) {}
}
