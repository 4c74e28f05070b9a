//! Reaching a gRPC server over TCP or a Unix socket.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a gRPC server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Plain-text HTTP/2 over TCP.
    Tcp {
        /// Name or address; without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Plain-text HTTP/2 over a Unix socket.
    Unix(PathBuf),
}

/// Why a text is no [`ServerAddress`].
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a server address; give host:port, http://host:port or unix:/path")]
pub struct AddressError {
    text: String,
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
