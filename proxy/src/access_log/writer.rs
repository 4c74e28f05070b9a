//! The threads that write, one for each file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Chunks that may wait; with the size of a chunk this bounds the memory of a log.
const QUEUE: usize = 64;
/// Enough for a thread that only writes.
const STACK: usize = 128 * 1024;

/// Where lines go.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Inner>);

/// Lines on their way.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) text: Vec<u8>,
    pub(crate) lines: u64,
}

/// What happened to all lines of all logs.
#[derive(Debug, Default)]
pub(crate) struct LogStats {
    /// Chunks taken over from workers.
    pub(crate) write_buffered: AtomicU64,
    pub(crate) write_completed: AtomicU64,
    pub(crate) write_failed: AtomicU64,
    pub(crate) reopen_failed: AtomicU64,
    /// Bytes that wait now.
    pub(crate) write_total_buffered: AtomicU64,
    /// Lines that were thrown away because the writer was behind.
    pub(crate) dropped: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    sender: SyncSender<Message>,
    stats: Arc<LogStats>,
    /// Set when the file is to be opened anew; the writer clears it.
    reopen: Arc<AtomicBool>,
}

enum Message {
    Chunk(Chunk),
    /// Only wakes the writer.
    Wake,
    /// Everything before this is written when the sender is dropped.
    Barrier(SyncSender<()>),
}

/// What a writer writes to.
enum Target {
    Stdout,
    Stderr,
    File { path: String, file: File },
}

// === impl Output ===

impl Output {
    /// Appends to a file; `/dev/stdout` and `/dev/stderr` are the process's own.
    pub(crate) fn open(path: &str, stats: &Arc<LogStats>) -> io::Result<Self> {
        let target = match path {
            "/dev/stdout" => Target::Stdout,
            "/dev/stderr" => Target::Stderr,
            path => Target::File { path: path.to_owned(), file: append_to(path)? },
        };
        let (sender, messages) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let (flag, writer_stats) = (Arc::clone(&reopen), Arc::clone(stats));
        // Ends when the last output is gone.
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(STACK)
            .spawn(move || write(target, &messages, &flag, &writer_stats))?;
        Ok(Self(Arc::new(Inner { sender, stats: Arc::clone(stats), reopen })))
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody but the holder of `self` can write here any more.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Hands lines over, or counts them as dropped.
    pub(crate) fn send(&self, chunk: Chunk) {
        let (length, lines) = (chunk.text.len() as u64, chunk.lines);
        let stats = &self.0.stats;
        // Counted before it is sent: the writer takes it off as soon as it has it.
        stats.write_total_buffered.fetch_add(length, Ordering::Relaxed);
        if self.0.sender.try_send(Message::Chunk(chunk)).is_ok() {
            stats.write_buffered.fetch_add(1, Ordering::Relaxed);
        } else {
            stats.write_total_buffered.fetch_sub(length, Ordering::Relaxed);
            stats.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }

    /// Opens the file anew, for whoever moved it away.
    pub(crate) fn reopen(&self) {
        self.0.reopen.store(true, Ordering::Release);
        // A full queue needs no waking.
        let _ = self.0.sender.try_send(Message::Wake);
    }

    /// Waits until everything is written that was handed over, but not for ever. Blocks.
    pub(crate) fn drain(&self, patience: Duration) {
        let (done, wait) = sync_channel(0);
        if self.0.sender.try_send(Message::Barrier(done)).is_ok() {
            // Ends with an error either way: nothing is ever sent.
            let _ = wait.recv_timeout(patience);
        }
    }
}

fn write(mut target: Target, messages: &Receiver<Message>, reopen: &AtomicBool, stats: &LogStats) {
    while let Ok(message) = messages.recv() {
        if reopen.swap(false, Ordering::Acquire)
            && let Err(error) = target.reopen()
        {
            stats.reopen_failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "cannot reopen an access log, writing on to the old one");
        }
        let chunk = match message {
            Message::Chunk(chunk) => chunk,
            Message::Wake => continue,
            Message::Barrier(done) => {
                drop(done);
                continue;
            }
        };
        match target.write_all(&chunk.text) {
            Ok(()) => stats.write_completed.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "cannot write an access log");
                stats.write_failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        stats.write_total_buffered.fetch_sub(chunk.text.len() as u64, Ordering::Relaxed);
    }
}

fn append_to(path: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

// === impl Target ===

impl Target {
    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(text),
            Self::File { file, .. } => file.write_all(text),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = append_to(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Chunk {
        Chunk { text: text.as_bytes().to_vec(), lines: 1 }
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let stats = Arc::new(LogStats::default());
        let output = Output::open(path.to_str().expect("a path"), &stats).expect("opens");
        output.send(chunk("one\n"));
        output.drain(Duration::from_secs(10));
        std::fs::rename(&path, &moved).expect("moves");
        output.send(chunk("two\n"));
        output.drain(Duration::from_secs(10));
        output.reopen();
        output.send(chunk("three\n"));
        output.drain(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&moved).expect("reads"), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "three\n");
        assert_eq!(stats.write_completed.load(Ordering::Relaxed), 3);
        assert_eq!(stats.write_total_buffered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_never_time() {
        // A FIFO that nobody reads holds its writer up after the size of a pipe.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let _reader = OpenOptions::new().read(true).write(true).open(&path).expect("opens both ways");
        let stats = Arc::new(LogStats::default());
        let output = Output::open(path.to_str().expect("a path"), &stats).expect("opens");
        for _ in 0..QUEUE * 2 {
            output.send(Chunk { text: vec![b'x'; 128 * 1024], lines: 10 });
        }
        let dropped = stats.dropped.load(Ordering::Relaxed);
        assert!(dropped >= 10 * (QUEUE as u64 - 8), "{dropped} lines were dropped");
        let buffered = stats.write_buffered.load(Ordering::Relaxed);
        assert_eq!(buffered + dropped / 10, 2 * QUEUE as u64, "every chunk is accounted for");
    }
}
