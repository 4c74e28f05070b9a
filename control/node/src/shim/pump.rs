//! From the container's pipes into its log, in the format that CRI runtimes write:
//! `TIME STREAM FLAG TEXT`, where the flag is `F` for a full line and `P` for a part of a long one.

use std::{
    io::{self, Read},
    process::Child,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::log_file::LogFile;

/// Longest text of one log line; longer ones are written in parts (as containerd and CRI-O do).
const MAX_TEXT: usize = 16 * 1024;
/// Two threads per container do nothing but read and write: the default stack of 2 MiB would be for nothing.
const STACK: usize = 128 * 1024;

/// Both threads; see [`Output::wait`].
pub(super) struct Output {
    /// Closed when the last thread, each of which holds a sender, has ended.
    ended: mpsc::Receiver<()>,
}

/// Starts copying a child's output.
pub(super) fn start(child: &mut Child, log: &Arc<Mutex<LogFile>>) -> Output {
    let (alive, ended) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        copy_in_thread(pipe, "stdout", log, alive.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        copy_in_thread(pipe, "stderr", log, alive);
    }
    Output { ended }
}

// === impl Output ===

impl Output {
    /// Waits until everything that was printed is in the log, at most for `bound`.
    pub(super) fn wait(&self, bound: Duration) {
        let deadline = Instant::now() + bound;
        while let Ok(()) = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {}
    }
}

fn copy_in_thread<R: Read + Send + 'static>(
    pipe: R,
    stream: &'static str,
    log: &Arc<Mutex<LogFile>>,
    alive: mpsc::Sender<()>,
) {
    let log = log.clone();
    let spawned = std::thread::Builder::new().name(stream.into()).stack_size(STACK).spawn(move || {
        let _alive = alive;
        let write = |lines: &[u8]| {
            // A full disk loses lines but must not stop the container, which would block on a full pipe.
            let _ = log.lock().append(lines);
        };
        copy(pipe, stream, write, jiff::Timestamp::now);
    });
    if let Err(error) = spawned {
        eprintln!("weft shim: cannot start a thread for {stream}: {error}");
    }
}

fn copy(mut pipe: impl Read, stream: &str, mut write: impl FnMut(&[u8]), now: impl Fn() -> jiff::Timestamp) {
    let mut pending: Vec<u8> = Vec::with_capacity(MAX_TEXT);
    let mut buffer = vec![0; MAX_TEXT];
    let mut lines = Vec::new();
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let time = format!("{:.9}", now());
        lines.clear();
        for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
            let (text, full) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_TEXT - pending.len();
            let (head, tail) = text.split_at(text.len().min(room));
            pending.extend_from_slice(head);
            if !tail.is_empty() || (!full && pending.len() == MAX_TEXT) {
                push_line(&mut lines, &time, stream, 'P', &pending);
                pending.clear();
                pending.extend_from_slice(tail);
            }
            if full {
                push_line(&mut lines, &time, stream, 'F', &pending);
                pending.clear();
            }
        }
        if !lines.is_empty() {
            write(&lines);
        }
    }
    if !pending.is_empty() {
        lines.clear();
        push_line(&mut lines, &format!("{:.9}", now()), stream, 'F', &pending);
        write(&lines);
    }
}

fn push_line(lines: &mut Vec<u8>, time: &str, stream: &str, flag: char, text: &[u8]) {
    lines.extend_from_slice(format!("{time} {stream} {flag} ").as_bytes());
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(input: &[u8]) -> Vec<String> {
        let mut output = Vec::new();
        copy(input, "stdout", |lines| output.extend_from_slice(lines), || jiff::Timestamp::UNIX_EPOCH);
        String::from_utf8(output).expect("text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_line_has_its_time_stream_and_flag() {
        let time = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(
            copied(b"one\n\ntwo\n"),
            [format!("{time} stdout F one"), format!("{time} stdout F "), format!("{time} stdout F two"),]
        );
    }

    #[test]
    fn a_last_line_without_its_newline_is_not_lost() {
        assert_eq!(copied(b"end").len(), 1);
        assert!(copied(b"end")[0].ends_with(" F end"));
    }

    #[test]
    fn a_long_line_comes_in_parts_and_its_last_part_is_full() {
        let text = vec![b'x'; 2 * MAX_TEXT + 10];
        let lines = copied(&[text.as_slice(), b"\nnext\n"].concat());
        let flags: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(2).expect("a flag")).collect();
        assert_eq!(flags, ["P", "P", "F", "F"]);
        let total: usize = lines[..3].iter().map(|line| line.split(' ').nth(3).expect("text").len()).sum();
        assert_eq!(total, text.len());
    }
}
