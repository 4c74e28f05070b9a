//! Python with the packages that `tests/run` installs.

use std::{env, path::PathBuf};

use anyhow::Context as _;
use tokio::process::Command;

use crate::process;

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
