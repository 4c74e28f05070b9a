//! The command line, in Envoy's words.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use weft_kit::{error::chain, telemetry};
use weft_xds::{
    json::{Format, parse_bootstrap},
    pb::envoy::config::{bootstrap::v3::Bootstrap, core::v3::Node},
};

use crate::{
    server::{self, DrainPlan, DrainStrategy, Options, Server},
    sys,
};

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
    /// Seconds that open connections get to finish when the proxy is told to end; it ends earlier if they are done.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub drain_time_s: u64,
    /// File to write the admin address to once it is known, for a port that the kernel chose.
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,
    /// Tell clients to go all at once when a drain begins, or spread over the drain time. Unlike Envoy, immediate is the
    /// default: what is told to end ends as soon as its last connection does, and a gradual drain holds it up on purpose.
    #[arg(long, value_enum, default_value_t = Strategy::Immediate)]
    pub drain_strategy: Strategy,
    /// Directory that keeps the last good configuration from the control plane. Where that is away at the start, the
    /// proxy serves with what is there until it is back. Holds what came over SDS too, readable only for this user.
    #[arg(long, value_name = "DIRECTORY")]
    pub last_good_config_path: Option<PathBuf>,
    /// File with a token, sent to the control plane as `authorization: Bearer TOKEN`. It is read for each stream, so that
    /// it may be replaced at any time.
    #[arg(long, value_name = "FILE")]
    pub xds_token_path: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Carry traffic.
    Serve,
    /// Check the configuration.
    Validate,
}

/// How clients are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// Spread over the drain time.
    Gradual,
    /// At once.
    Immediate,
}

/// What is wrong with what the command line names.
#[derive(Debug, thiserror::Error)]
enum ArgumentError {
    #[error("give a bootstrap with --config-path or --config-yaml")]
    Missing,
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write the admin address to {path:?}")]
    Write {
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
        drain: DrainPlan {
            time: Duration::from_secs(args.drain_time_s),
            strategy: args.drain_strategy.into(),
        },
        command_line: shown(args),
        last_good: args.last_good_config_path.clone(),
        xds_token: args.xds_token_path.clone(),
    };
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::user_defined1()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut reopen)) = signals else {
        eprintln!("error: cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let server = match Server::start(bootstrap, options).await {
        Ok(server) => server,
        Err(error) => return fail(&error),
    };
    if let Some((path, address)) = args.admin_address_path.as_ref().zip(server.admin_address())
        && let Err(source) = std::fs::write(path, address.to_string())
    {
        return fail(&ArgumentError::Write { path: path.clone(), source });
    }
    sys::release_unused();
    tracing::info!(admin = ?server.admin_address(), listeners = ?server.listener_addresses(), "serving");
    loop {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to end, draining"),
            _ = interrupt.recv() => tracing::info!("interrupted, draining"),
            _ = reopen.recv() => {
                tracing::info!("reopening access logs");
                server.reopen_logs();
                continue;
            }
            () = server.quit_requested() => {
                server.stop().await;
                return ExitCode::SUCCESS;
            }
        }
        break;
    }
    tokio::select! {
        () = server.drain() => {}
        _ = interrupt.recv() => tracing::warn!("interrupted again, ending at once"),
        _ = terminate.recv() => tracing::warn!("told to end again, ending at once"),
    }
    ExitCode::SUCCESS
}

/// The options that are not part of [`Options`], for `/server_info`.
fn shown(args: &Args) -> BTreeMap<&'static str, String> {
    let path = args.config_path.as_ref().map(|path| path.display().to_string());
    BTreeMap::from([
        ("config_path", path.unwrap_or_default()),
        ("config_yaml", args.config_yaml.clone().unwrap_or_default()),
        ("log_level", args.log_level.clone()),
        ("service_cluster", args.service_cluster.clone().unwrap_or_default()),
        ("service_node", args.service_node.clone().unwrap_or_default()),
        ("mode", format!("{:?}", args.mode)),
    ])
}

fn load(args: &Args) -> Result<Bootstrap, ArgumentError> {
    let file = match &args.config_path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ArgumentError::Read { path: path.clone(), source })?;
            Some(text)
        }
    };
    let mut bootstrap = match (file, &args.config_yaml) {
        (None, None) => return Err(ArgumentError::Missing),
        (Some(text), None) => parse_bootstrap(&text, Format::Auto).map_err(ArgumentError::Parse)?,
        (None, Some(text)) => parse_bootstrap(text, Format::Auto).map_err(ArgumentError::Parse)?,
        (Some(file), Some(text)) => merged(&file, text).map_err(ArgumentError::Parse)?,
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
    weft_xds::json::bootstrap_from_json(base)
}

impl From<Strategy> for DrainStrategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Gradual => Self::Gradual,
            Strategy::Immediate => Self::Immediate,
        }
    }
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::FAILURE
}
