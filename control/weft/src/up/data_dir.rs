//! The directory that holds a cluster's state.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The given directory, else the default of the XDG specification; made if need be, readable by its owner only.
pub(super) fn prepare(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let dir = locate(given).context("neither $XDG_DATA_HOME nor $HOME is set; give --data-dir")?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    // Bootstraps and kubeconfig name files below it; they are read by processes with other working directories.
    dir.canonicalize().with_context(|| format!("cannot resolve the data directory {}", dir.display()))
}

/// The given directory, else the default, which need not be there; `None` if there is nothing to tell it from.
pub(crate) fn locate(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| default_dir(env::var_os("XDG_DATA_HOME").map(PathBuf::from), env::home_dir()))
}

/// Replaces `path` with `text` at once, readable by its owner only.
pub(super) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn default_dir(xdg_data_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The specification: a relative path there is to be ignored.
    let xdg = xdg_data_home.filter(|path| path.is_absolute());
    let base = xdg.or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".local/share")))?;
    Some(base.join("weft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_xdg_specification() {
        let dir =
            |xdg: Option<&str>, home: Option<&str>| default_dir(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(dir(Some("/data"), Some("/home/me")), Some("/data/weft".into()));
        assert_eq!(dir(None, Some("/home/me")), Some("/home/me/.local/share/weft".into()));
        assert_eq!(dir(Some("relative"), Some("/home/me")), Some("/home/me/.local/share/weft".into()));
        assert_eq!(dir(None, None), None);
    }
}
