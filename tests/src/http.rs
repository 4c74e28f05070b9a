//! A small HTTP client, a sampler that notes who answered when, and steady load that counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

const TIMEOUT: Duration = Duration::from_secs(10);

/// `GET http://AUTHORITY/PATH` on a connection of its own: status and body.
pub async fn get(url: &str) -> anyhow::Result<(u16, String)> {
    request("GET", url).await
}

/// The same with another method and no body.
pub async fn request(method: &str, url: &str) -> anyhow::Result<(u16, String)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("not a plain HTTP address: {url}"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    tokio::time::timeout(TIMEOUT, async {
        let mut connection = connect(authority).await?;
        exchange(&mut connection, method, authority, &format!("/{path}")).await
    })
    .await
    .with_context(|| format!("no answer from {url} within {} s", TIMEOUT.as_secs()))?
}

/// One answer that the sampler got.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the answer was there.
    pub at: Instant,
    /// Status and body, or what went wrong.
    pub outcome: Result<(u16, String), String>,
}

/// Asks for one page again and again, on several connections, until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Asks for one page at a steady pace, like [`Sampler`], and keeps only counts: for minutes of load.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a [`Load`] counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub broken: u64,
    /// The slowest answer.
    pub slowest: Duration,
    /// The first of what was not a 200, with the second of the load at which it came.
    pub examples: Vec<String>,
    /// Who answered, by the `pod` of a JSON body, since [`Load::forget_pods`].
    pub pods: BTreeSet<String>,
}

/// How many failures a [`Tally`] describes.
const EXAMPLES: usize = 8;

// === impl Sampler ===

impl Sampler {
    /// `connections` callers, each asking every `period`.
    pub fn start(authority: &str, connections: usize, period: Duration) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let tasks = (0..connections)
            .map(|_| {
                let samples = samples.clone();
                let note = move |sample, _| {
                    samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
                };
                tokio::spawn(ask(authority.to_owned(), period, note))
            })
            .collect();
        Self { samples, tasks }
    }

    /// Everything so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().clone()
    }

    /// When an answer that contains `text` came first, at or after `since`.
    pub fn first_from(&self, text: &str, since: Instant) -> Option<Instant> {
        let holds = |sample: &&Sample| {
            sample.at >= since && sample.outcome.as_ref().is_ok_and(|(_, body)| body.contains(text))
        };
        self.lock().iter().find(holds).map(|sample| sample.at)
    }

    /// Samples that are not a 200: how many of how many, and the first few.
    pub fn failures(&self) -> (usize, usize, Vec<String>) {
        let samples = self.lock();
        let failures: Vec<String> = samples
            .iter()
            .filter_map(|sample| match &sample.outcome {
                Ok((200, _)) => None,
                Ok((status, body)) => Some(format!("status {status}: {}", body.trim())),
                Err(error) => Some(error.clone()),
            })
            .collect();
        (failures.len(), samples.len(), failures.into_iter().take(5).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

// === impl Load ===

impl Load {
    /// `connections` callers, each asking every `period`.
    pub fn start(authority: &str, connections: usize, period: Duration) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let started = Instant::now();
        let tasks = (0..connections)
            .map(|_| {
                let tally = tally.clone();
                let note = move |sample: Sample, took| {
                    let second = sample.at.duration_since(started).as_secs_f64();
                    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tally.note(sample.outcome, took, second);
                };
                tokio::spawn(ask(authority.to_owned(), period, note))
            })
            .collect();
        Self { tally, tasks }
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// Who answered since [`forget_pods`](Self::forget_pods).
    pub fn pods(&self) -> BTreeSet<String> {
        self.lock().pods.clone()
    }

    /// Starts to collect anew who answers.
    pub fn forget_pods(&self) {
        self.lock().pods.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Requests in all.
    pub fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.broken
    }

    /// Requests that were not answered with 200.
    pub fn failed(&self) -> u64 {
        self.requests() - self.statuses.get(&200).copied().unwrap_or_default()
    }

    fn note(&mut self, outcome: Result<(u16, String), String>, took: Duration, second: f64) {
        self.slowest = self.slowest.max(took);
        let failure = match outcome {
            Ok((status, body)) => {
                *self.statuses.entry(status).or_default() += 1;
                let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                if let Some(pod) = json["pod"].as_str().filter(|pod| !self.pods.contains(*pod)) {
                    self.pods.insert(pod.to_owned());
                }
                (status != 200).then(|| format!("status {status}: {}", body.trim()))
            }
            Err(error) => {
                self.broken += 1;
                Some(error)
            }
        };
        if let Some(failure) = failure.filter(|_| self.examples.len() < EXAMPLES) {
            self.examples.push(format!("at {second:.2} s: {failure}"));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, failed, slowest) = (self.requests(), self.failed(), self.slowest.as_millis());
        write!(f, "{failed} of {requests} requests failed, the slowest took {slowest} ms")?;
        if !self.examples.is_empty() {
            write!(f, " {:?}", self.examples)?;
        }
        Ok(())
    }
}

/// Asks every `period` on one connection, which is kept while it lasts; `note` gets the answer and the time it took.
async fn ask(authority: String, period: Duration, mut note: impl FnMut(Sample, Duration)) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<SendRequest<Empty<Bytes>>> = None;
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let ask = async {
            // A connection that was closed between two requests is not a failed request.
            if let Some(kept) = &mut connection
                && kept.ready().await.is_err()
            {
                connection = None;
            }
            let kept = match connection.take() {
                Some(kept) => connection.insert(kept),
                None => connection.insert(connect(&authority).await?),
            };
            exchange(kept, "GET", &authority, "/").await
        };
        let outcome = match tokio::time::timeout(TIMEOUT, ask).await {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        if outcome.is_err() {
            connection = None;
        }
        note(Sample { at: Instant::now(), outcome }, asked.elapsed());
    }
}

async fn connect(authority: &str) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream =
        TcpStream::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("cannot speak HTTP")?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

async fn exchange(
    connection: &mut SendRequest<Empty<Bytes>>,
    method: &str,
    authority: &str,
    path: &str,
) -> anyhow::Result<(u16, String)> {
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, authority).body(Empty::new())?;
    let response = connection.send_request(request).await.context("the exchange broke")?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.context("the body broke")?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
