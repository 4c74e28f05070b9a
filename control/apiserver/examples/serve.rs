//! An API server alone, without anything that acts on its objects: `cargo run --example serve -- DIRECTORY [PORT]`.
//!
//! It writes `DIRECTORY/kubeconfig` and serves until it is interrupted.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;
use weft_apiserver::Config;
use weft_store::{EmbeddedStore, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    weft_kit::telemetry::init("info")?;
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve DIRECTORY [PORT]")?);
    let mut config = Config::new(directory.clone());
    config.listen.set_port(arguments.next().map_or(Ok(0), |port| port.parse())?);
    let store = Arc::new(EmbeddedStore::open(&directory.join("store.redb"), Options::default())?);
    let shutdown = CancellationToken::new();
    let server = weft_apiserver::start(config, store, shutdown.clone()).await?;
    std::fs::write(directory.join("kubeconfig"), server.admin_kubeconfig())?;
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    server.stopped().await;
    Ok(())
}
