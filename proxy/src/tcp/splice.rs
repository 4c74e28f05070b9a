//! A pipe through which the kernel moves bytes from one socket to another.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use tokio::{io::Interest, net::TcpStream};

/// What the pipe should hold; the kernel may grant less to those who are not root.
const SIZE: usize = 1024 * 1024;

/// The pipe and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
    filled: usize,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let size = [SIZE, SIZE / 4]
            .iter()
            .find_map(|size| fcntl(&write, FcntlArg::F_SETPIPE_SZ(*size as i32)).ok())
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(64 * 1024);
        Ok(Self { read, write, size, filled: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what `from` has, at least one byte; 0 is its end. The pipe must be empty.
    pub(super) async fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let count = from
            .async_io(Interest::READABLE, || {
                splice(from.as_fd(), None, self.write.as_fd(), None, self.size, flags())
                    .map_err(io::Error::from)
            })
            .await?;
        self.filled += count;
        Ok(count)
    }

    /// Gives what `to` takes, at least one byte.
    pub(super) async fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let count = to
            .async_io(Interest::WRITABLE, || {
                splice(self.read.as_fd(), None, to.as_fd(), None, self.filled, flags())
                    .map_err(io::Error::from)
            })
            .await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.filled -= count;
        Ok(count)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}
