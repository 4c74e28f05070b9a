//! Structured logs on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level or filter is not one that `tracing_subscriber::EnvFilter` reads.
    #[error("log filter {filter:?} is not valid; give a level (error, warn, info, debug, trace) or target=level pairs")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is already set up in this process")]
    Twice,
}

/// Sends the process's logs to standard error, filtered by `WEFT_LOG` if set, else by `default_filter`.
///
/// Lines are coloured when standard error is a terminal. To be called once, first thing in `main`.
pub fn init(default_filter: &str) -> Result<(), TelemetryError> {
    let filter = std::env::var("WEFT_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|source| TelemetryError::Filter { filter, source })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE)
        .try_init()
        .map_err(|_| TelemetryError::Twice)
}
