//! Load and upstream for `compare`; see `weft_benches::load`.

use std::{io::Read as _, time::Duration};

use clap::{Parser, Subcommand};
use serde::Serialize;
use weft_benches::load::{bulk, connect, handshake, held, paced, serve};

/// Makes load, or answers it; prints JSON
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Serve HTTP/1 and bytes until killed
    Serve,
    /// Take bytes
    Bulk(Load),
    /// Make and end TCP connections
    Connect(Load),
    /// Make full TLS handshakes
    Handshake(Load),
    /// Send requests at a constant rate
    Paced {
        #[command(flatten)]
        load: Load,
        /// Requests per second
        #[arg(long)]
        rate: f64,
    },
    /// Open connections, and keep them idle until standard input ends
    Held(Load),
}

#[derive(Debug, clap::Args)]
struct Load {
    /// Port of the proxy on 127.0.0.1
    #[arg(long)]
    port: u16,

    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    connections: u32,

    /// For how long, in milliseconds
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Args::parse().what {
        What::Serve => serve::serve(|ports| print(&ports)).await,
        What::Bulk(load) => print(&bulk::run(load.port, load.connections, load.length())?),
        What::Connect(load) => print(&connect::run(load.port, load.connections, load.length()).await?),
        What::Handshake(load) => print(&handshake::run(load.port, load.connections, load.length()).await?),
        What::Paced { load, rate } => {
            print(&paced::run(load.port, load.connections, rate, load.length()).await?)
        }
        What::Held(load) => {
            let held = held::open(load.port, load.connections).await?;
            print(&held.len())?;
            std::io::stdin().read_to_end(&mut Vec::new())?;
            Ok(())
        }
    }
}

// === impl Load ===

impl Load {
    fn length(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

fn print(what: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}
