//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo;

/// A service mesh that brings its own cluster.
#[derive(Debug, Parser)]
#[command(name = "weft", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine until Ctrl-C
    Up(UpArgs),
    /// Run the sidecar proxy on an Envoy bootstrap file
    Proxy(Box<weft_proxy::cli::Args>),
    /// Show how far each proxy is with its configuration
    Proxies(ProxiesArgs),
    /// Supervise one container of the process runtime
    #[command(hide = true)]
    Shim {
        /// File that says what to run
        spec: PathBuf,
    },
    /// Hold a pod's network namespace
    #[command(hide = true)]
    Pause,
    /// Run one of the demo's programs
    #[command(hide = true)]
    Demo {
        #[command(subcommand)]
        program: demo::Program,
    },
    /// Print the version
    Version,
}

/// What `weft up` can be told.
///
/// A port that is not given, or given as 0, is the one of the last start on this data directory if it is free, else the
/// default (unless 0 was given), else any free one; the status that `weft up` prints says which.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Also run the demo: web, api and a client
    #[arg(long)]
    pub(crate) demo: bool,

    /// Where the cluster's state lives [default: $XDG_DATA_HOME/weft, else ~/.local/share/weft]
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// How containers run; auto is process, which works on every machine
    #[arg(long, value_enum, default_value_t = Runtime::Auto)]
    pub(crate) runtime: Runtime,

    /// Name of this machine as a node of the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// Address of the Kubernetes API [default: 127.0.0.1:6443]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api_listen: Option<SocketAddr>,

    /// Address of the mesh's DNS server, UDP and TCP [default: 127.0.0.1:15053]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns_listen: Option<SocketAddr>,

    /// Address of the mesh control's xDS server [default: 127.0.0.1:15010]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) xds_listen: Option<SocketAddr>,

    /// Address of the metrics of control, plain HTTP [default: 127.0.0.1:15014]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,

    /// Level of the logs on standard error: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub(crate) log_level: String,
}

/// What `weft proxies` can be told.
///
/// The cluster is the one of --kubeconfig, else of $KUBECONFIG, else of `weft up` on this machine, else of ~/.kube/config.
#[derive(Debug, Args)]
pub(crate) struct ProxiesArgs {
    /// Everything about this proxy
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,

    /// What control wants the proxy to have against what it acknowledged
    #[arg(long, requires = "id", conflicts_with = "output")]
    pub(crate) diff: bool,

    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,

    /// How to reach the cluster
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Where the state of the cluster on this machine lives
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR", conflicts_with = "kubeconfig")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Forms of output, as kubectl has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The objects
    Json,
    /// The objects
    Yaml,
    /// A table with further columns
    Wide,
}

/// See [`weft_node::RuntimeChoice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// The process runtime: whether a Docker Engine happens to run must not change what a command does
    Auto,
    /// Containers of a Docker Engine
    Docker,
    /// Child processes with loopback addresses; needs no root
    Process,
}
