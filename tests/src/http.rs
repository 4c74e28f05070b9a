//! A small HTTP client, and a sampler that notes who answered when.

use std::{
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

// === impl Sampler ===

impl Sampler {
    /// `connections` callers, each asking every `period`.
    pub fn start(authority: &str, connections: usize, period: Duration) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let tasks = (0..connections)
            .map(|_| {
                let (authority, samples) = (authority.to_owned(), samples.clone());
                tokio::spawn(sample(authority, period, samples))
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

async fn sample(authority: String, period: Duration, samples: Arc<Mutex<Vec<Sample>>>) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connection: Option<SendRequest<Empty<Bytes>>> = None;
    loop {
        ticks.tick().await;
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
        let sample = Sample { at: Instant::now(), outcome };
        samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
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
