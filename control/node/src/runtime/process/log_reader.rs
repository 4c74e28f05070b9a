//! Reading a container's log files while its shim writes and rotates them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::records::ContainerDir;
use crate::{
    logs::{LogLine, LogOptions, Selection},
    proc,
    runtime::LogStream,
    shim::rotated,
};

/// How often a follower looks for more.
const FOLLOW_POLL: Duration = Duration::from_millis(100);
/// Bytes per chunk, about; a slow reader holds four of them.
const CHUNK: usize = 32 * 1024;
/// More files than are ever kept.
const MAX_FILES: u32 = 64;

/// The log as a stream. A thread of the blocking pool reads; it ends soon after the stream is dropped.
pub(super) fn stream(directory: ContainerDir, options: LogOptions) -> LogStream {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&directory, &options, &sender) {
            // The reader may be gone, which is how most followers end.
            let _ = sender.blocking_send(Err(error));
        }
    });
    ReceiverStream::new(receiver).boxed()
}

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

fn send(directory: &ContainerDir, options: &LogOptions, sender: &Sender) -> io::Result<()> {
    let mut selection = Selection::new(options);
    let mut files = open_all(&directory.log_path())?;
    if let Some(tail) = options.tail {
        seek_to_tail(&mut files, tail)?;
    }
    let Some(mut current) = files.pop_back() else { return Ok(()) };
    for mut file in files {
        if !send_rest(&mut file, &mut selection, sender)? {
            return Ok(());
        }
    }
    loop {
        // Asked before reading: what was printed before the end is in the file by then.
        let ended = !options.follow || has_ended(directory);
        if !send_rest(&mut current, &mut selection, sender)? {
            return Ok(());
        }
        match next_file(&directory.log_path(), current.get_ref())? {
            Some(next) => {
                // Lines may have been added between our last read and the rotation.
                if !send_rest(&mut current, &mut selection, sender)? {
                    return Ok(());
                }
                current = next;
            }
            None if ended => return Ok(()),
            None => {
                std::thread::sleep(FOLLOW_POLL);
                if sender.is_closed() {
                    return Ok(());
                }
            }
        }
    }
}

/// All files, oldest first.
fn open_all(path: &Path) -> io::Result<VecDeque<BufReader<File>>> {
    let mut files = VecDeque::new();
    let names = std::iter::once(path.to_owned()).chain((1..MAX_FILES).map(|number| rotated(path, number)));
    for name in names {
        match File::open(&name) {
            Ok(file) => files.push_front(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Moves every file to where the last `count` lines begin. Parts of a long line count as one with its end.
fn seek_to_tail(files: &mut VecDeque<BufReader<File>>, count: usize) -> io::Result<()> {
    let mut starts: VecDeque<(usize, u64)> = VecDeque::new();
    let mut line = Vec::new();
    let mut continues = false;
    for (index, file) in files.iter_mut().enumerate() {
        let mut position = 0;
        loop {
            line.clear();
            let read = file.read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            if let Some(parsed) = LogLine::parse(&line[..line.len() - 1]) {
                if !continues {
                    starts.push_back((index, position));
                    if starts.len() > count {
                        starts.pop_front();
                    }
                }
                continues = !parsed.full;
            }
            position += read as u64;
        }
    }
    let first = starts.front().copied();
    for (index, file) in files.iter_mut().enumerate() {
        match first {
            Some((wanted, _)) if index > wanted => file.seek(SeekFrom::Start(0))?,
            Some((wanted, position)) if index == wanted => file.seek(SeekFrom::Start(position))?,
            _ => file.seek(SeekFrom::End(0))?,
        };
    }
    Ok(())
}

/// Sends what is left of a file; an unfinished line at its end stays for the next time. `false`: nobody wants more.
fn send_rest(file: &mut BufReader<File>, selection: &mut Selection, sender: &Sender) -> io::Result<bool> {
    let mut output = Vec::new();
    let mut line = Vec::new();
    let mut wanted = true;
    while wanted {
        line.clear();
        let read = file.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            file.seek_relative(-i64::try_from(read).unwrap_or(0))?;
            break;
        };
        if let Some(parsed) = LogLine::parse(text) {
            wanted = selection.apply(&parsed, &mut output);
        }
        if output.len() >= CHUNK
            && sender.blocking_send(Ok(Bytes::from(std::mem::take(&mut output)))).is_err()
        {
            return Ok(false);
        }
    }
    if !output.is_empty() && sender.blocking_send(Ok(Bytes::from(output))).is_err() {
        return Ok(false);
    }
    Ok(wanted)
}

/// The file after `current`, if the log was rotated since that was opened.
fn next_file(path: &Path, current: &File) -> io::Result<Option<BufReader<File>>> {
    let inode = current.metadata()?.ino();
    let mut newer = None;
    for file in open_all(path)?.into_iter().rev() {
        if file.get_ref().metadata()?.ino() == inode {
            return Ok(newer);
        }
        newer = Some(file);
    }
    // Ours was removed: more than all kept files were written since. What is oldest comes next.
    Ok(newer)
}

fn has_ended(directory: &ContainerDir) -> bool {
    match (directory.exited(), directory.started()) {
        (Ok(None), Ok(Some(started))) => !proc::is_alive(started.shim_pid, started.shim_start),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_log(path: &Path, texts: &[&str]) {
        let lines: String =
            texts.iter().map(|text| format!("2026-11-23T21:00:00Z stdout F {text}\n")).collect();
        std::fs::write(path, lines).expect("writes");
    }

    fn rest(files: VecDeque<BufReader<File>>) -> String {
        let (sender, mut receiver) = mpsc::channel(16);
        let mut selection = Selection::new(&LogOptions::default());
        for mut file in files {
            send_rest(&mut file, &mut selection, &sender).expect("reads");
        }
        drop(sender);
        let mut text = String::new();
        while let Some(chunk) = receiver.blocking_recv() {
            text.push_str(std::str::from_utf8(&chunk.expect("no error")).expect("text"));
        }
        text
    }

    #[test]
    fn files_are_read_from_the_oldest_to_the_current_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        write_log(&rotated(&path, 2), &["a"]);
        write_log(&rotated(&path, 1), &["b"]);
        write_log(&path, &["c"]);
        assert_eq!(rest(open_all(&path).expect("opens")), "a\nb\nc\n");
    }

    #[test]
    fn a_tail_may_begin_in_an_older_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        write_log(&rotated(&path, 1), &["a", "b"]);
        write_log(&path, &["c"]);
        for (count, expected) in [(0, ""), (1, "c\n"), (2, "b\nc\n"), (9, "a\nb\nc\n")] {
            let mut files = open_all(&path).expect("opens");
            seek_to_tail(&mut files, count).expect("seeks");
            assert_eq!(rest(files), expected, "{count}");
        }
    }

    #[test]
    fn an_unfinished_line_waits_for_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        std::fs::write(&path, "2026-11-23T21:00:00Z stdout F half").expect("writes");
        let mut files = open_all(&path).expect("opens");
        let mut file = files.pop_back().expect("one file");
        let (sender, mut receiver) = mpsc::channel(16);
        let mut selection = Selection::new(&LogOptions::default());
        assert!(send_rest(&mut file, &mut selection, &sender).expect("reads"));
        assert!(receiver.try_recv().is_err());
        std::fs::write(&path, "2026-11-23T21:00:00Z stdout F half and whole\n").expect("writes");
        assert!(send_rest(&mut file, &mut selection, &sender).expect("reads"));
        assert_eq!(receiver.try_recv().expect("a chunk").expect("no error"), "half and whole\n");
    }

    #[test]
    fn a_rotated_file_has_a_successor_and_the_current_one_has_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        write_log(&path, &["a"]);
        let old = File::open(&path).expect("opens");
        assert!(next_file(&path, &old).expect("looks").is_none());
        std::fs::rename(&path, rotated(&path, 1)).expect("renames");
        write_log(&path, &["b"]);
        let next = next_file(&path, &old).expect("looks").expect("a successor");
        assert_eq!(rest(VecDeque::from([next])), "b\n");
    }
}
