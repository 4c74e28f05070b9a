//! Finding the end of a message head in bytes that arrive in pieces.

/// Where the search for the end of a head stands; each byte is looked at once, however small the pieces are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeadScan {
    /// Everything before this was searched.
    searched: usize,
    /// Start of the line that is being searched.
    line_start: usize,
}

/// A line ended with LF alone. Peers disagree on what that means, which is what request smuggling lives on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BareLineFeed;

impl HeadScan {
    /// The length of the head including its empty last line, or `None` while it is incomplete.
    ///
    /// `buffer` must start with the message and only grow from call to call.
    pub(crate) fn find(&mut self, buffer: &[u8]) -> Result<Option<usize>, BareLineFeed> {
        while let Some(offset) = memchr::memchr(b'\n', &buffer[self.searched..]) {
            let line_feed = self.searched + offset;
            if line_feed == self.line_start || buffer[line_feed - 1] != b'\r' {
                return Err(BareLineFeed);
            }
            let empty = line_feed - 1 == self.line_start;
            self.searched = line_feed + 1;
            if empty && self.line_start != 0 {
                return Ok(Some(self.searched));
            }
            self.line_start = self.searched;
        }
        self.searched = buffer.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_byte_by_byte_as_at_once() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest";
        let mut scan = HeadScan::default();
        let found = (1..=text.len()).find_map(|end| scan.find(&text[..end]).expect("proper line ends"));
        assert_eq!(found, Some(text.len() - 4));
        assert_eq!(HeadScan::default().find(text), Ok(Some(text.len() - 4)));
    }

    #[test]
    fn refuses_a_bare_line_feed_anywhere() {
        for text in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\n\n",
            "\n",
        ] {
            assert_eq!(HeadScan::default().find(text.as_bytes()), Err(BareLineFeed), "{text:?}");
        }
    }
}
