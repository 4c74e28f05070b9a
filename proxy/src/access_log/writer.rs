//! The thread that writes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

/// Lines that may wait.
const QUEUE: usize = 16 * 1024;

/// Where lines go.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    sender: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

// === impl Output ===

impl Output {
    /// Appends to a file; `/dev/stdout` and `/dev/stderr` are the process's own.
    pub(crate) fn open(path: &str, dropped: &Arc<AtomicU64>) -> io::Result<Self> {
        match path {
            "/dev/stdout" => Ok(Self::start(io::stdout(), dropped)),
            "/dev/stderr" => Ok(Self::start(io::stderr(), dropped)),
            path => {
                let file: File = OpenOptions::new().create(true).append(true).open(Path::new(path))?;
                Ok(Self::start(file, dropped))
            }
        }
    }

    pub(crate) fn send(&self, line: Vec<u8>) {
        if self.sender.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn start(target: impl Write + Send + 'static, dropped: &Arc<AtomicU64>) -> Self {
        let (sender, lines) = sync_channel(QUEUE);
        // Ends when the last sender is gone. A failure to start leaves every line to be counted as dropped.
        let started =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(target, &lines));
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the access log writer");
        }
        Self { sender, dropped: Arc::clone(dropped) }
    }
}

fn write(mut target: impl Write, lines: &Receiver<Vec<u8>>) {
    let mut batch = Vec::with_capacity(64 * 1024);
    while let Ok(line) = lines.recv() {
        batch.clear();
        batch.extend_from_slice(&line);
        // Whatever has gathered goes out in one write; nothing waits for more to come.
        while batch.len() < 256 * 1024
            && let Ok(line) = lines.try_recv()
        {
            batch.extend_from_slice(&line);
        }
        if let Err(error) = target.write_all(&batch).and_then(|()| target.flush()) {
            tracing::warn!(%error, "cannot write the access log");
        }
    }
}
