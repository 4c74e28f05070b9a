//! `weft proxies`: how far each proxy is with its configuration, out of the API that the API server shows.

mod print;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use http::{Request, header};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use weft_mesh::proxies_api::{GROUP, VERSION};

use crate::{
    cli::{Output, ProxiesArgs},
    up::data_dir,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// An id stands in a path as it is, but for what would be read as something else.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'~').remove(b'-').remove(b'.').remove(b'_');

/// Asks and prints.
pub(crate) fn main(args: ProxiesArgs) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(args)));
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weft proxies: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: ProxiesArgs) -> anyhow::Result<String> {
    let client = client(args.kubeconfig, args.data_dir).await?;
    let all = format!("/apis/{GROUP}/{VERSION}/proxies");
    let path = match &args.id {
        None => all,
        Some(id) => format!("{all}/{}", utf8_percent_encode(id, IN_PATH)),
    };
    let ask = |accept: &'static str| {
        let request = Request::get(&path).header(header::ACCEPT, accept).body(Vec::new());
        let client = &client;
        async move {
            let request = request.context("the id cannot be asked for")?;
            client.request::<Value>(request).await.map_err(anyhow::Error::new)
        }
    };
    match args.output {
        Some(Output::Json) => {
            let object = ask("application/json").await?;
            Ok(format!("{}\n", serde_json::to_string_pretty(&object).context("cannot write JSON")?))
        }
        Some(Output::Yaml) => {
            let object = ask("application/json").await?;
            serde_saphyr::to_string(&object).context("cannot write YAML")
        }
        Some(Output::Wide) => Ok(print::table(&ask(TABLE).await?, true)),
        None if args.diff => Ok(print::diff(&ask("application/json").await?)),
        None if args.id.is_some() => Ok(print::details(&ask("application/json").await?)),
        None => Ok(print::table(&ask(TABLE).await?, false)),
    }
}

/// As kubectl finds a cluster; where it is told of none, the one of `weft up` on this machine.
async fn client(kubeconfig: Option<PathBuf>, data_dir: Option<PathBuf>) -> anyhow::Result<Client> {
    let told = kubeconfig.is_some() || (data_dir.is_none() && std::env::var_os("KUBECONFIG").is_some());
    let ours = || data_dir::locate(data_dir).map(|dir| dir.join("kubeconfig")).filter(|file| file.is_file());
    let file = if told { kubeconfig } else { ours() };
    let kubeconfig = match file {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.context("cannot read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.context("cannot use the kubeconfig")?).context("cannot reach the cluster")
}
