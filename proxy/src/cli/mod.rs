//! The command line, in Envoy's words.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use weft_kit::{error::chain, telemetry};
use weft_xds::{
    json::{Format, parse_bootstrap},
    pb::envoy::config::{bootstrap::v3::Bootstrap, core::v3::Node},
};

use crate::server::{self, Options, Server};

/// A sidecar and edge proxy configured in the language of Envoy.
#[derive(Debug, Clone, Parser)]
#[command(name = "weft-proxy", version)]
pub struct Args {
    /// Bootstrap file, YAML or JSON.
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// Bootstrap as text; where both are given, its top-level fields replace those of the file.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
    /// Data threads; the number of processors by default.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Serve, or check the configuration and end.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// Least severe messages to log: error, warn, info, debug or trace, or a filter such as info,weft_proxy=debug.
    #[arg(short = 'l', long, default_value = "info")]
    pub log_level: String,
    /// Replaces `node.id` of the bootstrap.
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,
    /// Replaces `node.cluster` of the bootstrap.
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Seconds that open connections get to finish when the proxy is told to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub drain_time_s: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Carry traffic.
    Serve,
    /// Check the configuration.
    Validate,
}

/// Why there is no bootstrap to use.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("give a bootstrap with --config-path or --config-yaml")]
    Missing,
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("invalid configuration")]
    Parse(#[source] weft_xds::json::ConfigError),
}

/// Runs the proxy until it is told to end.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = telemetry::init(&args.log_level) {
        // Used as part of a bigger program the logs are set up already, which is fine.
        if !matches!(error, telemetry::TelemetryError::Twice) {
            eprintln!("error: {}", chain(&error));
            return ExitCode::from(2);
        }
    }
    let bootstrap = match load(&args) {
        Ok(bootstrap) => bootstrap,
        Err(error) => return fail(&error),
    };
    if args.mode == Mode::Validate {
        return match server::validate(bootstrap) {
            Ok(()) => {
                println!("configuration is valid");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(bootstrap, &args)),
        Err(error) => fail(&error),
    }
}

async fn serve(bootstrap: Bootstrap, args: &Args) -> ExitCode {
    let threads = || std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        concurrency: args.concurrency.filter(|count| *count > 0).unwrap_or_else(threads),
        drain_time: Duration::from_secs(args.drain_time_s),
    };
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        eprintln!("error: cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let server = match Server::start(bootstrap, options).await {
        Ok(server) => server,
        Err(error) => return fail(&error),
    };
    tracing::info!(admin = ?server.admin_address(), listeners = ?server.listener_addresses(), "serving");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to end, draining"),
        _ = interrupt.recv() => tracing::info!("interrupted, draining"),
        () = server.quit_requested() => {
            server.stop().await;
            return ExitCode::SUCCESS;
        }
    }
    tokio::select! {
        () = server.drain() => {}
        _ = interrupt.recv() => tracing::warn!("interrupted again, ending at once"),
    }
    ExitCode::SUCCESS
}

fn load(args: &Args) -> Result<Bootstrap, LoadError> {
    let file = match &args.config_path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| LoadError::Read { path: path.clone(), source })?;
            Some(text)
        }
    };
    let mut bootstrap = match (file, &args.config_yaml) {
        (None, None) => return Err(LoadError::Missing),
        (Some(text), None) => parse_bootstrap(&text, Format::Auto).map_err(LoadError::Parse)?,
        (None, Some(text)) => parse_bootstrap(text, Format::Auto).map_err(LoadError::Parse)?,
        (Some(file), Some(text)) => merged(&file, text).map_err(LoadError::Parse)?,
    };
    let node = bootstrap.node.get_or_insert_with(Node::default);
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    Ok(bootstrap)
}

fn merged(file: &str, text: &str) -> Result<Bootstrap, weft_xds::json::ConfigError> {
    let mut base = weft_xds::json::parse_value(file, Format::Auto)?;
    let over = weft_xds::json::parse_value(text, Format::Auto)?;
    if let (Some(base), serde_json::Value::Object(over)) = (base.as_object_mut(), over) {
        base.extend(over);
    }
    weft_xds::json::from_json(&base)
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::FAILURE
}
