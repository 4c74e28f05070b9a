//! A server that writes down exactly what it gets, by the strictest reading of it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What it says to everything but the case at hand.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One server; each lane of the comparison has its own.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    arrived: Vec<Arrived>,
    /// The answer to `/case`, and whether the connection is closed after it.
    answer: Option<(Vec<u8>, bool)>,
}

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Method, target and version.
    pub(super) line: String,
    /// Without those that every proxy writes in its own way.
    pub(super) fields: BTreeSet<(String, String)>,
    /// `chunked`, `length` or nothing, and the content.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
}

/// Fields whose presence or value says nothing about how the request was understood.
const VOLATILE: [&str; 4] =
    ["x-request-id", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "content-length"];

// === impl Backend ===

impl Backend {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // Broken off is as good as ended: an incomplete request did not arrive.
                tokio::spawn(async move { serve(stream, &state).await.ok() });
            }
        });
        Ok(Self { address, state })
    }

    /// Forgets what came, and answers `/case` with this from now on.
    pub(super) fn prepare(&self, answer: Option<(Vec<u8>, bool)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { arrived: Vec::new(), answer };
    }

    /// The complete requests since then.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).arrived.clone()
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let request = read(&mut stream, &mut buffer).await?;
        let (head, is_case) = (request.line.starts_with("HEAD "), request.line.contains(" /case "));
        let answer = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.arrived.push(request);
            state.answer.clone().filter(|_| is_case)
        };
        match answer {
            Some((bytes, closes)) => {
                stream.write_all(&bytes).await?;
                if closes {
                    return Ok(());
                }
            }
            None => stream.write_all(if head { &OK[..OK.len() - 2] } else { OK }).await?,
        }
    }
}

/// One request, without any leniency.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<Arrived> {
    let line = take_line(stream, buffer).await?;
    let mut fields = BTreeSet::new();
    let (mut length, mut chunked) = (None, false);
    loop {
        let field = take_line(stream, buffer).await?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(": ").or_else(|| field.split_once(':')).context("no colon")?;
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "content-length" => length = Some(value.parse::<usize>()?),
            "transfer-encoding" => chunked = value == "chunked",
            _ => {}
        }
        if !VOLATILE.contains(&name.as_str()) {
            // What stands for a Host that the client did not send is the endpoint's address, port and all.
            let value = if value.starts_with("127.0.0.1:") { "endpoint" } else { value };
            fields.insert((name, value.to_owned()));
        }
    }
    ensure!(!(chunked && length.is_some()), "both framings");
    let body = if chunked {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&take_line(stream, buffer).await?, 16)?;
            if size == 0 {
                break;
            }
            body.extend(take(stream, buffer, size).await?);
            ensure!(take_line(stream, buffer).await?.is_empty(), "no line end after a chunk");
        }
        // Trailers: Envoy drops those of requests, we pass them on; what matters is where they end.
        while !take_line(stream, buffer).await?.is_empty() {}
        Some(("chunked", body))
    } else {
        let body = take(stream, buffer, length.unwrap_or(0)).await?;
        (!body.is_empty()).then_some(("length", body))
    };
    Ok(Arrived { line, fields, body })
}

async fn take_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).take(end).collect();
            // Byte by byte, so that nothing is taken for equal that is not.
            return Ok(line.iter().map(|byte| char::from(*byte)).collect());
        }
        ensure!(stream.read_buf(buffer).await? > 0, "closed");
    }
}

async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> anyhow::Result<Vec<u8>> {
    while buffer.len() < count {
        ensure!(stream.read_buf(buffer).await? > 0, "closed");
    }
    Ok(buffer.drain(..count).collect())
}
