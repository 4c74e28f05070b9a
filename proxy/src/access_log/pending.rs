//! Lines that a worker formatted and did not hand over yet.

use std::cell::RefCell;

use super::writer::{Chunk, Output};

/// A buffer of this size is handed over without waiting for the next round.
const CHUNK: usize = 16 * 1024;

/// The buffers of one worker, one for each file that it wrote to since the last round.
#[derive(Debug, Default)]
pub(crate) struct Pending(RefCell<Vec<(Output, Chunk)>>);

// === impl Pending ===

impl Pending {
    /// Appends what `format` writes as one line.
    pub(crate) fn append(&self, output: &Output, format: impl FnOnce(&mut Vec<u8>)) {
        let mut buffers = self.0.borrow_mut();
        // Files are few: a scan is cheaper than any table.
        let index = match buffers.iter().position(|(other, _)| other.is_same(output)) {
            Some(index) => index,
            None => {
                buffers.push((output.clone(), Chunk::default()));
                buffers.len() - 1
            }
        };
        let (output, chunk) = &mut buffers[index];
        format(&mut chunk.text);
        chunk.lines += 1;
        if chunk.text.len() >= CHUNK {
            // As many lines are likely to follow: one allocation for all of them.
            let next = Chunk { text: Vec::with_capacity(CHUNK + CHUNK / 8), lines: 0 };
            output.send(std::mem::replace(chunk, next));
        }
    }

    /// Hands over whatever there is.
    pub(crate) fn flush(&self) {
        for (output, chunk) in self.0.take() {
            if chunk.lines > 0 {
                output.send(chunk);
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Requests that end with the worker itself are logged like all others.
        self.flush();
    }
}
