//! The demo: three small programs, and the manifest that runs them as a cluster's workload.
//!
//! The programs know nothing of Weft. They bind `POD_IP` (every address when it is not set), find each other through
//! the `*_SERVICE_HOST` and `*_SERVICE_PORT` variables that every Kubernetes pod gets, and drain on SIGTERM; the mesh
//! stands between them because the node agent puts it there.

mod api;
mod client;
pub(crate) mod manifest;
mod server;
mod upstream;
mod web;

use std::process::ExitCode;

/// Which demo program to be.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Program {
    /// Answers with a greeting, its own name and what `api` said
    Web,
    /// Answers with a small JSON object
    Api,
    /// Calls `web` all the time and logs what came back
    Client,
}

/// Runs one demo program until it is told to stop.
pub(crate) fn main(program: &Program) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match program {
            Program::Web => web::run().await,
            Program::Api => api::run().await,
            Program::Client => client::run().await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The name of this replica: what the manifest passes down, else the host's name as in every Kubernetes container.
fn pod_name() -> String {
    ["POD_NAME", "HOSTNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| "unnamed".to_owned())
}
