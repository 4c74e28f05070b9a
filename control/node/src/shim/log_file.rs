//! The log files of one container: `log`, `log.1` (newer) … `log.N` (oldest).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Appends to the current file and starts another when it is full.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
}

impl LogFile {
    pub(super) fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, max_bytes, max_files })
    }

    /// Writes whole lines, as one piece: a reader never sees half of one unless the disk is full.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self.size > 0 && self.size + length > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.max_files.saturating_sub(1)).rev() {
            rename_if_exists(&rotated(&self.path, number), &rotated(&self.path, number + 1))?;
        }
        if self.max_files > 1 {
            rename_if_exists(&self.path, &rotated(&self.path, 1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// Name of the file that was rotated `number` times.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_exists(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_newest_files_and_no_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut log = LogFile::open(&path, 10, 3).expect("opens");
        for line in ["11111111\n", "22222222\n", "33333333\n", "44444444\n"] {
            log.append(line.as_bytes()).expect("writes");
        }
        let read = |path: &Path| std::fs::read_to_string(path).expect("exists");
        assert_eq!(read(&path), "44444444\n");
        assert_eq!(read(&rotated(&path, 1)), "33333333\n");
        assert_eq!(read(&rotated(&path, 2)), "22222222\n");
        assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 3);
    }

    #[test]
    fn a_line_longer_than_a_file_is_kept_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut log = LogFile::open(&path, 4, 2).expect("opens");
        log.append(b"longer than four\n").expect("writes");
        assert_eq!(std::fs::read(&path).expect("exists"), b"longer than four\n");
    }
}
