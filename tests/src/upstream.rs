//! A server that does what the path says, over HTTP/1 and HTTP/2, and remembers what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet};

/// A running server; it ends with everything that it serves when dropped.
///
/// * `/status/N`: that status, with no body.
/// * `/bytes/N`: N bytes, with `content-length`.
/// * `/chunks/N`: N pieces of 1 KB, without a length, then the trailer `x-pieces: N`.
/// * `/slow/N`: the same with 10 ms before each.
/// * `/cut/N`: N bytes of a promised N + 1, then the connection breaks.
/// * `/discard`: reads the whole body and answers with its length in decimal.
/// * `/early`: answers at once, whatever body is still to come.
/// * anything else: the request's body comes back, piece by piece, and its trailers.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Version.
    pub version: Version,
    /// Fields.
    pub headers: HeaderMap,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Mutex<Vec<Asked>>,
    count: AtomicUsize,
    connections: AtomicUsize,
}

/// Requests that are remembered; a load test makes more and looks at none.
const REMEMBERED: usize = 1000;
const PIECE: Bytes = Bytes::from_static(&[b'x'; 1024]);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

// === impl Upstream ===

impl Upstream {
    /// Starts one on a port of the kernel's choice.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one where another ended, say.
    pub async fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("it is bound")?;
        let seen = Arc::new(Seen::default());
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, seen.clone()));
        Ok(Self { address, seen, _serving: serving })
    }

    /// The requests so far, up to a thousand.
    pub fn asked(&self) -> Vec<Asked> {
        self.seen.lock().clone()
    }

    /// The last request.
    pub fn last(&self) -> anyhow::Result<Asked> {
        self.seen.lock().last().cloned().context("nothing was asked")
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

// === impl Asked ===

impl Asked {
    /// The values of a field, joined by `, `.
    pub fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
    }
}

// === impl Seen ===

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, request: &Request<Incoming>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut requests = self.lock();
        if requests.len() < REMEMBERED {
            requests.push(Asked {
                method: request.method().clone(),
                target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
                version: request.version(),
                headers: request.headers().clone(),
            });
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    // Ends with the task: connections of a server that is gone must not live on.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let seen = seen.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                seen.note(&request);
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().max_header_list_size(64 * 1024);
            builder.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (word, number) =
        (parts.next().unwrap_or(""), parts.next().and_then(|number| number.parse::<usize>().ok()));
    let mut response = Response::new(empty());
    match (word, number) {
        ("status", Some(status)) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        }
        ("bytes", Some(length)) => {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
            if request.method() != Method::HEAD {
                *response.body_mut() = boxed(pieces_of(length));
            }
        }
        ("chunks", Some(count)) => {
            announce(&mut response);
            *response.body_mut() =
                boxed(stream::repeat_with(|| Ok(Frame::data(PIECE))).take(count).chain(trailers(count)));
        }
        ("slow", Some(count)) => {
            announce(&mut response);
            let slowly = stream::repeat(()).take(count).then(|()| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(Frame::data(PIECE))
            });
            *response.body_mut() = boxed(slowly.chain(trailers(count)));
        }
        ("cut", Some(length)) => {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, (length + 1).into());
            let broken = stream::once(async {
                // So that what was promised is on its way, and not thrown away with the rest.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(std::io::Error::other("as asked"))
            });
            *response.body_mut() = boxed(pieces_of(length).chain(broken));
        }
        ("discard", None) => {
            let mut total = 0;
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                total += frame.data_ref().map_or(0, Bytes::len);
            }
            *response.body_mut() = text(total.to_string());
        }
        ("early", None) => *response.body_mut() = text("early".to_owned()),
        _ => *response.body_mut() = request.into_body().map_err(std::io::Error::other).boxed_unsync(),
    }
    response
}

fn pieces_of(length: usize) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
    const LARGE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
    stream::unfold(length, |left| async move {
        let size = left.min(LARGE.len());
        (size > 0).then(|| (Ok(Frame::data(LARGE.slice(..size))), left - size))
    })
}

/// Over HTTP/1 only trailers that were announced are sent.
fn announce(response: &mut Response<Body>) {
    response.headers_mut().insert(http::header::TRAILER, HeaderValue::from_static("x-pieces"));
}

fn trailers(count: usize) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("x-pieces"), HeaderValue::from(count));
    stream::once(async move { Ok(Frame::trailers(trailers)) })
}

fn boxed(stream: impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send + 'static) -> Body {
    StreamBody::new(stream).boxed_unsync()
}

fn text(text: String) -> Body {
    boxed(stream::once(async { Ok(Frame::data(Bytes::from(text))) }))
}

fn empty() -> Body {
    boxed(stream::empty())
}
