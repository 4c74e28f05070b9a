//! From Envoy's messages to what the data threads use.
//!
//! Each module compiles one kind of message. A field that we do not implement and that would change behaviour is an
//! error with its path; `unsupported!` lists them by name, so that none is forgotten in silence. Nothing is put in place
//! before all of it compiled; [`state`] does that.

pub(crate) mod access_log;
mod access_log_filter;
mod affinity;
mod balance;
pub(crate) mod bootstrap;
mod breaker;
mod chain_match;
pub(crate) mod cluster;
mod dns_resolver;
pub(crate) mod endpoint;
pub(crate) mod extensions;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod known;
mod labels;
pub(crate) mod last_good;
pub(crate) mod listener;
mod listener_filter;
pub(crate) mod matcher;
pub(crate) mod metadata;
pub(crate) mod names;
mod network_filter;
mod on_demand;
mod outlier;
pub(crate) mod overload;
pub(crate) mod rate_limit;
mod retry;
pub(crate) mod route;
pub(crate) mod runtime;
pub(crate) mod scoped_routes;
pub(crate) mod secrets;
pub(crate) mod servers;
pub(crate) mod service;
pub(crate) mod source;
pub(crate) mod state;
mod tcp_proxy;
mod tls;
pub(crate) mod upstream_socket;
pub(crate) mod value;

use std::fmt;

/// Where in a message we are, innermost last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path(String);

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// The field, as written in the configuration.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

// === impl Path ===

impl Path {
    pub(crate) fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of this.
    pub(crate) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of a list field of this.
    pub(crate) fn item(&self, name: &str, index: usize) -> Self {
        let field = self.field(name);
        Self(format!("{}[{index}]", field.0))
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError { path: self.0.clone(), reason: reason.into() }
    }

    pub(crate) fn missing(&self) -> ConfigError {
        self.error("is required")
    }

    pub(crate) fn unsupported(&self) -> ConfigError {
        self.error("is not supported")
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses a message in which one of the fields is set.
macro_rules! unsupported {
    ($path:expr, $message:expr; $($field:ident),+ $(,)?) => {
        $(
            if !$crate::config::is_default(&$message.$field) {
                return Err($path.field(stringify!($field).trim_start_matches("r#")).unsupported());
            }
        )+
    };
}
pub(crate) use unsupported;

/// Whether a field has the value that it has when it is not set.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
