//! The clients of the soak: some behave, some do not.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a client does, again and again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Many requests over one connection.
    KeepAlive,
    /// A connection for each request, and half-closed when that was sent.
    OneShot,
    /// Three requests in one piece.
    Pipelined,
    /// An answer that is read slowly, and a request that is written slowly.
    Slow,
    /// Large answers and requests of which the client wants no more after a bit: reset or closed.
    Aborted,
    /// What is no HTTP.
    Garbage,
    /// Many streams over one connection, some of them given up.
    Http2,
    /// Bytes both ways through the TCP relay, ended in different ways.
    Relay,
}

/// Where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) http1: SocketAddr,
    pub(super) http2: SocketAddr,
    pub(super) relay: SocketAddr,
}

/// What came of it all.
#[derive(Debug, Default)]
pub(super) struct Counts {
    good: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    wrong: AtomicU64,
    abused: AtomicU64,
}

/// How an exchange of a client that behaves ended.
enum End {
    Good,
    /// The proxy said that it cannot.
    Refused,
    /// Complete, and not what was asked for.
    Wrong,
}

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Does the same until `end`.
pub(super) async fn repeat(kind: Kind, target: Target, end: Instant, counts: Arc<Counts>) {
    let mut turn = 0;
    while Instant::now() < end {
        turn += 1;
        let once = once(kind, target, turn, &counts);
        match tokio::time::timeout(PATIENCE, once).await {
            Ok(Ok(())) => {}
            // A server was restarted under it.
            Ok(Err(_)) => {
                counts.broken.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                counts.wrong.fetch_add(1, Ordering::Relaxed);
                println!("{kind:?} does not end");
            }
        }
    }
}

async fn once(kind: Kind, target: Target, turn: usize, counts: &Counts) -> anyhow::Result<()> {
    match kind {
        Kind::KeepAlive => keep_alive(target.http1, counts).await,
        Kind::OneShot => one_shot(target.http1, turn, counts).await,
        Kind::Pipelined => pipelined(target.http1, counts).await,
        Kind::Slow => slow(target.http1, counts).await,
        Kind::Aborted => {
            aborted(if turn.is_multiple_of(2) { target.http1 } else { target.http2 }, turn, counts).await
        }
        Kind::Garbage => garbage(target.http1, turn, counts).await,
        Kind::Http2 => http2(target.http2, counts).await,
        Kind::Relay => relay(target.relay, turn, counts).await,
    }
}

async fn keep_alive(at: SocketAddr, counts: &Counts) -> anyhow::Result<()> {
    let stream = TcpStream::connect(at).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    for number in 0..50 {
        if sender.ready().await.is_err() {
            // Told to go, or refused: a new connection is next.
            break;
        }
        let size = [0, 100, 10_000, 300_000][number % 4];
        let (path, body) = if number % 3 == 0 {
            ("/discard".to_owned(), Bytes::from(vec![b'u'; size]))
        } else {
            (format!("/bytes/{size}"), Bytes::new())
        };
        let wanted = if number % 3 == 0 { size.to_string().len() } else { size };
        let request = Request::post(path).header("host", "soak").body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let got = response.into_body().collect().await?.to_bytes().len();
        counts.note(judge(status, got, wanted));
    }
    drop(sender);
    driver.await.ok();
    Ok(())
}

async fn one_shot(at: SocketAddr, turn: usize, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(b"GET /bytes/1000 HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n").await?;
    if turn.is_multiple_of(2) {
        stream.shutdown().await?;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let (status, body) = split(&answer)?;
    counts.note(judge(status, body, 1000));
    Ok(())
}

async fn pipelined(at: SocketAddr, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    let request = "GET /bytes/5 HTTP/1.1\r\nhost: soak\r\n\r\n";
    let last = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{request}{request}{last}").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count();
    let good = String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 ").count();
    counts.note(match (answers, good) {
        (3, 3) => End::Good,
        (1..=3, _) => End::Refused,
        _ => End::Wrong,
    });
    Ok(())
}

async fn slow(at: SocketAddr, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    SockRef::from(&stream).set_recv_buffer_size(4096)?;
    for piece in ["GET /bytes/", "100000 HTTP", "/1.1\r\nho", "st: soak\r\nconnection: clo", "se\r\n", "\r\n"]
    {
        stream.write_all(piece.as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut answer, mut piece) = (Vec::new(), vec![0; 2000]);
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..count]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, body) = split(&answer)?;
    counts.note(judge(status, body, 100_000));
    Ok(())
}

async fn aborted(at: SocketAddr, turn: usize, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    match turn % 5 {
        0 => stream.write_all(b"GET /bytes/50000000 HTTP/1.1\r\nhost: soak\r\n\r\n").await?,
        1 => {
            stream
                .write_all(b"POST /discard HTTP/1.1\r\nhost: soak\r\ncontent-length: 1000000\r\n\r\n")
                .await?;
            stream.write_all(&[b'u'; 10_000]).await?;
        }
        2 => {
            stream
                .write_all(b"POST /echo HTTP/1.1\r\nhost: soak\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab")
                .await?
        }
        3 => stream.write_all(b"GET /slow/1000 HTTP/1.1\r\nhost: soak\r\n\r\n").await?,
        _ => stream.write_all(b"GET / HT").await?,
    }
    let mut some = vec![0; 20_000];
    // Some of these say nothing.
    tokio::time::timeout(Duration::from_millis(20), stream.read(&mut some)).await.ok();
    if turn.is_multiple_of(2) {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    counts.abused.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn garbage(at: SocketAddr, turn: usize, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    let bytes: &[u8] = match turn % 4 {
        0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        1 => b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        2 => {
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        }
        _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\xff\xff\x00\x00\x00\x00\x00\x00",
    };
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    if answer.starts_with(b"HTTP/1.1 2") {
        counts.note(End::Wrong);
    }
    counts.abused.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

async fn http2(at: SocketAddr, counts: &Counts) -> anyhow::Result<()> {
    let stream = TcpStream::connect(at).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    for round in 0..10 {
        let streams = (0..20usize).map(|number| {
            let mut sender = sender.clone();
            async move {
                let size = [10, 1000, 50_000, 400_000][number % 4];
                let upload = number % 5 == 0;
                let path = if upload { "/discard".to_owned() } else { format!("/bytes/{size}") };
                let body = if upload { Bytes::from(vec![b'u'; size]) } else { Bytes::new() };
                let request = Request::post(format!("http://soak{path}")).body(Full::new(body))?;
                let response = sender.send_request(request).await?;
                let status = response.status().as_u16();
                let mut body = response.into_body();
                if number % 7 == 3 {
                    // Dropped with the rest unread: a reset.
                    body.frame().await.transpose().ok();
                    return Ok(None);
                }
                let got = body.collect().await?.to_bytes().len();
                let wanted = if upload { size.to_string().len() } else { size };
                anyhow::Ok(Some(judge(status, got, wanted)))
            }
        });
        for end in futures::future::join_all(streams).await {
            match end {
                Ok(Some(end)) => counts.note(end),
                Ok(None) => {
                    counts.abused.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if round > 0 => bail!("the connection ended"),
                Err(error) => return Err(error),
            }
        }
    }
    drop(sender);
    driver.await.ok();
    Ok(())
}

async fn relay(at: SocketAddr, turn: usize, counts: &Counts) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    let body = vec![b'r'; 300_000];
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    if turn.is_multiple_of(4) {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body[..1000]).await?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        counts.abused.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(head.as_bytes()).await?;
        write.write_all(&body).await?;
        if turn.is_multiple_of(2) { write.shutdown().await } else { Ok(()) }
    };
    let mut answer = Vec::new();
    let (sent, received) = tokio::join!(send, read.read_to_end(&mut answer));
    sent?;
    received?;
    let (status, got) = split(&answer)?;
    counts.note(judge(status, got, body.len()));
    Ok(())
}

/// The status of an answer that ends with its connection, and the length of its body.
fn split(answer: &[u8]) -> anyhow::Result<(u16, usize)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no whole head")?;
    let status =
        answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).context("no status")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = answer.len() - end - 4;
    if let Some(length) = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()) {
        ensure!(length.trim().parse::<usize>()? == body, "cut short");
    }
    Ok((status.parse()?, body))
}

fn judge(status: u16, got: usize, wanted: usize) -> End {
    match status {
        200 if got == wanted => End::Good,
        503 | 504 => End::Refused,
        _ => End::Wrong,
    }
}

// === impl Kind ===

impl Kind {
    pub(super) const ALL: &[Self] = &[
        Self::KeepAlive,
        Self::OneShot,
        Self::Pipelined,
        Self::Slow,
        Self::Aborted,
        Self::Garbage,
        Self::Http2,
        Self::Relay,
    ];
}

// === impl Counts ===

impl Counts {
    pub(super) fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    pub(super) fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }

    /// Refused or broken: what restarts of servers excuse.
    pub(super) fn failed(&self) -> u64 {
        self.refused.load(Ordering::Relaxed) + self.broken.load(Ordering::Relaxed)
    }

    fn note(&self, end: End) {
        let count = match end {
            End::Good => &self.good,
            End::Refused => &self.refused,
            End::Wrong => &self.wrong,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} good, {} refused, {} broken, {} wrong, {} abuses",
            read(&self.good),
            read(&self.refused),
            read(&self.broken),
            read(&self.wrong),
            read(&self.abused)
        )
    }
}
