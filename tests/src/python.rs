//! Python with the packages that `tests/run` installs.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::process;

/// A script of `tests/python` that runs beside a test; killed when dropped.
#[derive(Debug)]
pub struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// How long a script may say nothing that a test waits for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The interpreter that `tests/run` chose (`WEFT_TEST_PYTHON`), else python3, if it has `module`.
pub async fn find(module: &str) -> anyhow::Result<PathBuf> {
    let python = match env::var_os("WEFT_TEST_PYTHON") {
        Some(path) => path.into(),
        None => process::find("python3", "python3")?,
    };
    process::run(Command::new(&python).args(["-c", &format!("import {module}")]))
        .await
        .with_context(|| format!("python has no module {module}; tests/run installs it"))?;
    Ok(python)
}

/// Where `tests/python/NAME` is.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

// === impl Script ===

impl Script {
    /// Starts `tests/python/NAME`.
    pub fn start(python: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(python, name, arguments, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_with(
        python: &Path,
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(python)
            .arg(path(name))
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().context("its output was asked for")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// Starts a server, which prints its address first.
    pub async fn server(python: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<(Self, SocketAddr)> {
        let mut script = Self::start(python, name, arguments)?;
        let address = script.line().await?.parse().with_context(|| format!("{name} printed no address"))?;
        Ok((script, address))
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.context("the script says nothing")??.context("the script ended")
    }

    /// Writes a line to it.
    pub async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("its input was asked for")?;
        input.write_all(format!("{line}\n").as_bytes()).await.context("the script does not listen")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end, which must be a success; gives the rest of what it printed.
    pub async fn finish(mut self) -> anyhow::Result<String> {
        let ended = async {
            let mut rest = String::new();
            while let Some(line) = self.lines.next_line().await? {
                rest.push_str(&line);
                rest.push('\n');
            }
            anyhow::Ok((self.child.wait().await?, rest))
        };
        let (status, rest) =
            tokio::time::timeout(PATIENCE, ended).await.context("the script does not end")??;
        ensure!(status.success(), "the script ended with {status}:\n{rest}");
        Ok(rest)
    }
}
