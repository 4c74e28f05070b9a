//! kubectl, in every version that is installed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::Context as _;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

use crate::process;

/// One kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    /// Discovery is cached here, apart from the user's own.
    cache: PathBuf,
}

/// The kubectl on PATH.
pub fn find() -> anyhow::Result<PathBuf> {
    process::find("kubectl", "kubernetes-client")
}

/// The kubectl on PATH, and every `kubectl.VERSION` that stands beside it: some distributions install several and put a
/// chooser in front. Sorted by name.
pub fn find_all() -> anyhow::Result<Vec<PathBuf>> {
    let main = find()?;
    let resolved = main.canonicalize().with_context(|| format!("cannot resolve {}", main.display()))?;
    let siblings: BTreeMap<String, PathBuf> = resolved
        .parent()
        .map(fs::read_dir)
        .transpose()?
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, _)| name.starts_with("kubectl."))
        .collect();
    Ok(std::iter::once(main).chain(siblings.into_values()).collect())
}

// === impl Kubectl ===

impl Kubectl {
    /// `binary` against the cluster of `kubeconfig`.
    pub fn new(binary: &Path, kubeconfig: &Path) -> Self {
        let cache = kubeconfig.with_file_name("kubectl-cache");
        Self { binary: binary.into(), kubeconfig: kubeconfig.into(), cache }
    }

    /// A command with `args`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--cache-dir").arg(&self.cache).args(args).env("KUBECONFIG", &self.kubeconfig);
        // A pager or a proxy of the user's would change what is tested.
        command.env_remove("KUBECTL_EXTERNAL_DIFF").env("NO_PROXY", "*");
        command
    }

    /// Runs to the end; a failure is an error.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        process::run(&mut self.command(args)).await
    }

    /// Runs to the end, however it ends.
    pub async fn output(&self, args: &[&str]) -> anyhow::Result<Output> {
        process::output(&mut self.command(args)).await
    }

    /// What `args` print with `-o json`, parsed.
    pub async fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {args:?} printed no JSON"))
    }

    /// Runs with `input` on standard input, however it ends.
    pub async fn output_with_input(&self, args: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("its standard input is a pipe")?;
        // A kubectl that refuses early closes its end; its exit tells more than our broken pipe.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        child.wait_with_output().await.context("cannot wait for kubectl")
    }

    /// Starts in the background with standard output piped.
    pub fn spawn(&self, args: &[&str]) -> anyhow::Result<Child> {
        self.command(args).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("cannot start kubectl")
    }
}
