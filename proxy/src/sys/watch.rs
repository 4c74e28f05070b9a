//! Waiting for the file system to tell what happened.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::{Interest, unix::AsyncFd};

/// What tells of moves into directories.
pub(crate) struct Moves(AsyncFd<Descriptor>);

/// Owns the descriptor, and never gives it away.
struct Descriptor(Inotify);

// === impl Moves ===

impl Moves {
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: `Descriptor` owns an open descriptor, gives always the same one, and lives as long as the registration,
        // which owns it.
        let registered = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) };
        Ok(Self(registered?))
    }

    pub(crate) fn add(&self, directory: &std::path::Path) -> io::Result<WatchDescriptor> {
        Ok(self.0.get_ref().0.add_watch(directory, AddWatchFlags::IN_MOVED_TO)?)
    }

    /// Takes no further interest; fails for what is gone by itself.
    pub(crate) fn remove(&self, directory: WatchDescriptor) -> io::Result<()> {
        Ok(self.0.get_ref().0.rm_watch(directory)?)
    }

    /// Waits until something happened.
    pub(crate) async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(events) = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) {
                return events;
            }
        }
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
