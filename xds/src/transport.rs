//! Reaching a gRPC server over TCP or a Unix socket.

use std::{fmt, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

pub use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Channel, Endpoint},
};

/// How often a silent connection is checked, and how long its peer may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Where a gRPC server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerAddress {
    /// HTTP/2 over TCP, in plain text unless [`Secure`] is given.
    Tcp {
        /// Name or address; without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Plain-text HTTP/2 over a Unix socket.
    Unix(PathBuf),
}

/// Makes a connection to a server a secure one.
pub trait Secure: fmt::Debug + Send + Sync {
    /// Agrees with the server on a session.
    fn secure(
        self: Arc<Self>,
        socket: TcpStream,
        spoken: Spoken,
    ) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// What a secure session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// Polls.
    Http1,
    /// gRPC.
    Http2,
}

/// A connection, whatever it goes through.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

/// What is told with every stream that is opened.
#[derive(Debug, Clone, Default)]
pub struct CallMetadata {
    fields: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    /// A file with a token, which is told as `authorization: Bearer TOKEN`. It is read for each stream, so that it may
    /// be replaced at any time.
    pub token: Option<PathBuf>,
}

/// Why a text is no [`ServerAddress`].
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a server address; give host:port, http://host:port or unix:/path")]
pub struct AddressError {
    text: String,
}

/// Why a stream to a server failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// No connection.
    #[error("cannot connect to {server}")]
    Connect {
        server: ServerAddress,
        #[source]
        source: tonic::transport::Error,
    },
    /// Nothing came while it was waited for.
    #[error("the server said nothing in time")]
    Silent,
    /// There is no token to tell.
    #[error("cannot read the token {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The server did not open the stream.
    #[error("the server refused the stream")]
    Open(#[source] Status),
    /// The stream was open.
    #[error("the stream was lost")]
    Lost(#[source] Status),
}

/// Opens a connection that notices when its peer is gone.
pub(crate) async fn connect(
    server: &ServerAddress,
    secure: Option<&Arc<dyn Secure>>,
    timeout: Duration,
) -> Result<Channel, StreamError> {
    let error = |source| StreamError::Connect { server: server.clone(), source };
    let uri = match server {
        ServerAddress::Tcp { .. } => server.to_string(),
        // A name has to be there, nothing looks at it.
        ServerAddress::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(error)?
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEP_ALIVE.0))
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    match (server, secure) {
        (ServerAddress::Tcp { host, port }, Some(secure)) => {
            let (to, secure) = ((host.clone(), *port), Arc::clone(secure));
            // What requests say; the connection is made here.
            let https = server.to_string().replacen("http:", "https:", 1);
            let endpoint = match https.parse() {
                Ok(origin) => endpoint.origin(origin),
                Err(_) => endpoint,
            };
            let connector = tower::service_fn(move |_| {
                let (to, secure) = (to.clone(), Arc::clone(&secure));
                async move {
                    let socket = TcpStream::connect(to).await?;
                    socket.set_nodelay(true)?;
                    secure.secure(socket, Spoken::Http2).await.map(TokioIo::new)
                }
            });
            endpoint.connect_with_connector(connector).await
        }
        (ServerAddress::Tcp { .. }, None) => endpoint.connect().await,
        (ServerAddress::Unix(path), _) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await
        }
    }
    .map_err(error)
}

/// Opens a connection for HTTP/1.1.
pub(crate) async fn dial(
    server: &ServerAddress,
    secure: Option<&Arc<dyn Secure>>,
) -> io::Result<Box<dyn Connection>> {
    let (host, port) = match server {
        ServerAddress::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        ServerAddress::Tcp { host, port } => (host.as_str(), *port),
    };
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    match secure {
        Some(secure) => Arc::clone(secure).secure(socket, Spoken::Http1).await,
        None => Ok(Box::new(socket)),
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

// === impl CallMetadata ===

impl CallMetadata {
    /// Only a token, if there is a file with one.
    pub fn with_token(token: Option<PathBuf>) -> Self {
        Self { fields: Vec::new(), token }
    }

    /// Adds a field with a textual value; `false` if gRPC cannot carry it.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        match (AsciiMetadataKey::from_bytes(name), AsciiMetadataValue::try_from(value)) {
            (Ok(name), Ok(mut value)) => {
                // Such fields are tokens, mostly.
                value.set_sensitive(true);
                self.fields.push((name, value));
                true
            }
            _ => false,
        }
    }

    /// `message` with all that is to be told.
    pub(crate) fn request<M>(&self, message: M) -> Result<Request<M>, StreamError> {
        let mut request = Request::new(message);
        for (name, value) in &self.fields {
            request.metadata_mut().append(name, value.clone());
        }
        if let Some(path) = &self.token {
            let failed = |source| StreamError::Token { path: path.clone(), source };
            let token = std::fs::read_to_string(path).map_err(failed)?;
            let value = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

// === impl ServerAddress ===

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(error()) } else { Ok(Self::Unix(path.into())) };
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(error)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains('/') {
            return Err(error());
        }
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| error())? })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "http://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in
            ["http://127.0.0.1:18000", "http://[::1]:18000", "http://mesh.local:1", "unix:/run/ads.sock"]
        {
            assert_eq!(text.parse::<ServerAddress>().expect("valid").to_string(), text);
        }
        assert_eq!(
            "localhost:80".parse::<ServerAddress>().expect("valid").to_string(),
            "http://localhost:80"
        );
    }

    #[test]
    fn a_token_is_read_when_it_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let mut metadata = CallMetadata { token: Some(path.clone()), ..CallMetadata::default() };
        assert!(
            metadata.push(b"x-team", b"mesh")
                && !metadata.push(b"bad name", b"")
                && !metadata.push(b"x", b"\n")
        );
        let error = metadata.request(()).expect_err("there is no file yet");
        assert!(error.to_string().contains("token"), "{error}");
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).expect("written");
            let request = metadata.request(()).expect("a token");
            assert_eq!(request.metadata().get("authorization").expect("told"), &format!("Bearer {token}"));
            assert_eq!(request.metadata().get("x-team").expect("told"), "mesh");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for text in
            ["", "localhost", "localhost:", "localhost:99999", ":80", "unix:", "http://a/b:80", "ftp://a:1"]
        {
            let error = text.parse::<ServerAddress>().expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
