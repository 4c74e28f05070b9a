//! Calls to another service over kept-alive connections.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// More than any demo program answers; a larger body is a mistake at the other end.
const BODY_LIMIT: usize = 64 * 1024;

/// Another service, as the environment names it.
#[derive(Debug)]
pub(super) struct Upstream {
    host: String,
    port: u16,
    host_header: HeaderValue,
    /// Connections that finished their last exchange; taken for a call and put back after it.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the exchange broke")]
    Exchange(#[source] hyper::Error),
    #[error("the body broke or is too large")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the path is not valid")]
    Path(#[source] http::Error),
}

// === impl Upstream ===

impl Upstream {
    /// The service `name` by its `NAME_SERVICE_HOST` and `NAME_SERVICE_PORT`; without them by its name, which the
    /// mesh's DNS answers, on port 80.
    pub(super) fn from_env(name: &'static str) -> Self {
        let prefix = name.to_uppercase();
        let host = std::env::var(format!("{prefix}_SERVICE_HOST")).unwrap_or_else(|_| name.to_owned());
        let port = std::env::var(format!("{prefix}_SERVICE_PORT")).ok().and_then(|port| port.parse().ok());
        Self::at(name, host, port.unwrap_or(80))
    }

    /// The service `name` at an address that is known.
    pub(super) fn at(name: &'static str, host: String, port: u16) -> Self {
        Self { host, port, host_header: HeaderValue::from_static(name), idle: Mutex::new(Vec::new()) }
    }

    /// `GET path`: the status and the body.
    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), CallError> {
        tokio::time::timeout(CALL_TIMEOUT, self.exchange(path)).await.map_err(|_| CallError::Timeout)?
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Bytes), CallError> {
        let mut connection = match self.take_idle().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut request = Request::get(path).body(Empty::new()).map_err(CallError::Path)?;
        request.headers_mut().insert(header::HOST, self.host_header.clone());
        let answer = match connection.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut error) => match error.take_message() {
                // The connection closed before the request left us: a new one is no repetition.
                Some(request) => {
                    connection = self.connect().await?;
                    connection.send_request(request).await.map_err(CallError::Exchange)?
                }
                None => return Err(CallError::Exchange(error.into_error())),
            },
        };
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await.map_err(CallError::Body)?;
        self.lock_idle().push(connection);
        Ok((status, body.to_bytes()))
    }

    async fn take_idle(&self) -> Option<SendRequest<Empty<Bytes>>> {
        loop {
            let mut connection = self.lock_idle().pop()?;
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, CallError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(CallError::Exchange)?;
        // Ends with the last sender or with the other end; its error reaches the caller through the exchange.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Empty<Bytes>>>> {
        // A panic elsewhere cannot leave a list half changed.
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
