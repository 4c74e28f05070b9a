//! Who this agent is: the owner of its data directory, with an identity that survives restarts.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::Error;

/// Holds the lock on the data directory for as long as it lives.
#[derive(Debug)]
pub(super) struct Identity {
    directory: PathBuf,
    holder: String,
    _lock: File,
}

impl Identity {
    /// Takes the directory, making it if need be.
    pub(super) fn acquire(directory: &Path) -> Result<Self, Error> {
        let failed = |source| Error::DataDir { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let directory = directory.canonicalize().map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(|source| Error::DataDir { path: directory.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(directory)),
            Err(TryLockError::Error(source)) => return Err(Error::DataDir { path: directory, source }),
        }
        let holder = read_or_create(&directory.join("identity"))
            .map_err(|source| Error::DataDir { path: directory.clone(), source })?;
        Ok(Self { directory, holder, _lock: lock })
    }

    /// The directory's whole path.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The Lease's `holderIdentity`.
    pub(super) fn holder(&self) -> &str {
        &self.holder
    }
}

fn read_or_create(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let holder = uuid::Uuid::new_v4().to_string();
    std::fs::write(path, &holder)?;
    Ok(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_per_directory_and_one_identity_for_all_its_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Identity::acquire(directory.path()).expect("free");
        assert!(matches!(Identity::acquire(directory.path()), Err(Error::InUse(_))));
        let holder = first.holder().to_owned();
        drop(first);
        assert_eq!(Identity::acquire(directory.path()).expect("free again").holder(), holder);
    }
}
