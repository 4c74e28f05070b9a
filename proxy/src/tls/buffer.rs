//! Buffers that a session has only while it needs one.

use std::{cell::RefCell, io};

/// Room for four full records with their overhead.
pub(super) const SIZE: usize = 4 * (16 * 1024 + 256);
/// Buffers that a thread keeps for the next session.
const SPARE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes on their way; without any it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Empty, or initialised throughout.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

// === impl Buffer ===

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Where the next bytes go.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE]);
        } else if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Makes the room at least this large.
    pub(super) fn reserve(&mut self, count: usize) {
        if self.room().len() < count {
            self.bytes.resize(self.end + count, 0);
        }
    }

    /// Notes that so much of the room was filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len());
    }

    /// Takes bytes away from the front, and gives the memory back with the last of them.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
            let bytes = std::mem::take(&mut self.bytes);
            // One that grew was for something unusual.
            if bytes.len() == SIZE {
                POOL.with_borrow_mut(|pool| {
                    if pool.len() < SPARE {
                        pool.push(bytes);
                    }
                });
            }
        }
    }

    pub(super) fn extend(&mut self, data: &[u8]) {
        if !data.is_empty() {
            self.reserve(data.len());
            self.room()[..data.len()].copy_from_slice(data);
            self.filled(data.len());
        }
    }

    /// Moves as much as fits to `target`.
    pub(super) fn take_into(&mut self, target: &mut [u8]) -> usize {
        let count = self.data().len().min(target.len());
        target[..count].copy_from_slice(&self.data()[..count]);
        self.consume(count);
        count
    }

    /// Writes as long as `write` takes something.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while !self.is_empty() {
            match write(self.data()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.consume(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let left = self.data().len();
        if !self.bytes.is_empty() {
            self.consume(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_held_only_while_there_are_bytes() {
        let mut buffer = Buffer::default();
        buffer.extend(b"abcdef");
        assert_eq!(buffer.take_into(&mut [0; 4]), 4);
        assert_eq!(buffer.data(), b"ef");
        assert!(!buffer.bytes.is_empty());
        buffer.consume(2);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn a_write_that_would_block_keeps_the_rest() {
        let mut buffer = Buffer::default();
        buffer.extend(b"abcdef");
        let mut calls = 0;
        let result = buffer.drain(|_| {
            calls += 1;
            if calls == 1 { Ok(2) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        assert_eq!(result.expect_err("blocks").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(buffer.data(), b"cdef");
    }
}
