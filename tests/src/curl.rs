//! curl, and what it says about an exchange.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use tokio::process::Command;

use crate::process;

/// What curl did with one URL, or with the last of several.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// How curl ended; see EXIT CODES in its manual.
    pub exit: i32,
    /// The status, 0 without an answer.
    pub status: u16,
    /// `1`, `1.1` or `2`.
    pub version: String,
    /// Status lines and fields of every answer, and the trailers.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
    /// Connections that it made, over all URLs.
    pub connections: u32,
    /// Standard error: with `-v` the conversation.
    pub said: String,
}

/// To standard error: with several URLs the bodies of all but one go to standard output.
const WRITTEN: &str = "%{stderr}exchange: %{http_code} %{http_version} %{num_connects}\n";

/// Where curl is.
pub fn find() -> anyhow::Result<PathBuf> {
    process::find("curl", "curl")
}

/// Runs curl with these arguments, among them the URL.
pub async fn curl(arguments: &[&str]) -> anyhow::Result<Answer> {
    let directory = tempfile::Builder::new().prefix("weft-test-curl-").tempdir()?;
    let (head, body) = (directory.path().join("head"), directory.path().join("body"));
    let mut command = Command::new(find()?);
    // Without the user's own configuration, proxies of the environment, or patience without end.
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "120"]);
    command.args(["--write-out", WRITTEN]);
    command.arg("--dump-header").arg(&head).arg("--output").arg(&body);
    let output = process::output(command.args(arguments)).await?;
    let mut answer = Answer {
        exit: output.status.code().context("curl was killed")?,
        head: fs::read(&head).map(|head| String::from_utf8_lossy(&head).into_owned()).unwrap_or_default(),
        body: fs::read(&body).unwrap_or_default(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
        ..Answer::default()
    };
    for line in answer.said.lines().filter_map(|line| line.strip_prefix("exchange: ")) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        (answer.status, answer.version) = (word().parse().unwrap_or(0), word().to_owned());
        answer.connections += word().parse::<u32>().unwrap_or(0);
    }
    Ok(answer)
}

// === impl Answer ===

impl Answer {
    /// The values of a field of the answer, joined by `, `.
    pub fn header(&self, name: &str) -> String {
        let values = self.head.lines().filter_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        values.collect::<Vec<_>>().join(", ")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
