//! Structured logs on standard error.

use std::{io::IsTerminal as _, sync::OnceLock};

use tracing_subscriber::{
    EnvFilter, Registry, fmt::format::FmtSpan, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

/// Changes the filter of the logs that [`init`] set up.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level or filter is not one that `tracing_subscriber::EnvFilter` reads.
    #[error(
        "log filter {filter:?} is not valid; give a level (error, warn, info, debug, trace) or target=level pairs"
    )]
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
    /// The filter cannot be changed, because [`init`] did not set the logs up.
    #[error("logging was not set up by this program")]
    NotOurs,
}

/// Sends the process's logs to standard error, filtered by `WEFT_LOG` if set, else by `default_filter`.
///
/// Lines are coloured when standard error is a terminal. To be called once, first thing in `main`.
pub fn init(default_filter: &str) -> Result<(), TelemetryError> {
    let filter = std::env::var("WEFT_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let (filter, handle) = reload::Layer::new(parse(&filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE);
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| TelemetryError::Twice)?;
    // Only the first `init` gets here.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Replaces the filter while the process runs.
pub fn set_filter(filter: &str) -> Result<(), TelemetryError> {
    let handle = FILTER.get().ok_or(TelemetryError::NotOurs)?;
    handle.reload(parse(filter)?).map_err(|_| TelemetryError::NotOurs)
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}
