//! The Docker Engine, through its command line.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::process::Command;

use crate::process;

/// Everything that Weft makes carries this label.
const LABEL: &str = "label=weft.dev/cluster";

/// The client, if an engine answers it.
pub async fn find() -> anyhow::Result<PathBuf> {
    let docker = process::find("docker", "docker.io")?;
    process::run(Command::new(&docker).args(["version", "--format", "{{.Server.Version}}"]))
        .await
        .context("no Docker Engine answers")?;
    Ok(docker)
}

/// Runs `docker ARGS` to the end.
pub async fn run(args: &[&str]) -> anyhow::Result<String> {
    process::run(Command::new("docker").args(args)).await
}

/// Containers and networks that a Weft cluster made and that are there now.
pub async fn weft_objects() -> anyhow::Result<Vec<String>> {
    let containers =
        run(&["ps", "--all", "--filter", LABEL, "--format", "container {{.Names}} ({{.Status}})"]).await?;
    let networks = run(&["network", "ls", "--filter", LABEL, "--format", "network {{.Name}}"]).await?;
    Ok(containers.lines().chain(networks.lines()).map(str::to_owned).collect())
}
