//! The `weft` binary: a cluster in one process, and every other program that such a cluster starts.
//!
//! `weft up` is the composition root ([`up`]); [`proxies`] asks a running one; the other commands hand over to the crate that owns them. The hidden
//! ones are what the node agent starts: they are part of this binary so that one file is enough.

mod cli;
mod demo;
mod proxies;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Up(args) => up::main(args),
        Command::Proxy(args) => weft_proxy::cli::run(*args),
        Command::Proxies(args) => proxies::main(args),
        Command::Shim { spec } => weft_node::shim_main(&spec),
        Command::Pause => weft_node::pause_main(),
        Command::Demo { program } => demo::main(&program),
        Command::Version => {
            println!("weft {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
