//! The chunked coding, decoder side, without I/O.

/// Bytes of chunk extensions and trailers that a body may carry in total.
const OVERHEAD_LIMIT: usize = 16 * 1024;
/// Most hexadecimal digits of a chunk size: 2^60 bytes are enough for everybody.
const SIZE_DIGITS: usize = 15;

/// Where in the coding the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line, with the digits so far.
    Size { digits: usize },
    /// In the blanks between a size and its extension; only an extension may follow.
    SizeBlank,
    /// In the extension of a size line.
    Extension,
    /// The LF of a size line must follow.
    SizeLineFeed,
    /// In the data of a chunk.
    Data,
    /// The CR after the data must follow.
    DataCarriageReturn,
    /// The LF after the data must follow.
    DataLineFeed,
    /// In the lines after the last chunk.
    Trailers,
    /// All was read.
    Done,
}

/// What the decoder found at the start of the bytes that it was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// So many bytes of the coding itself, to be thrown away; ask again.
    Skip(usize),
    /// So many bytes of data.
    Data(usize),
    /// So many bytes of trailer lines, including the empty last line; the body ends here.
    End(usize),
    /// Nothing without more bytes.
    More,
}

/// The coding is not what RFC 9112 7.1 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkedError {
    #[error("invalid chunk size")]
    Size,
    #[error("invalid chunk extension")]
    Extension,
    #[error("chunk not followed by CRLF")]
    LineEnd,
    #[error("chunk extensions or trailers are too large")]
    TooLarge,
    #[error("invalid trailer")]
    Trailer,
}

/// The state of one chunked body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder {
    state: State,
    /// What is left of the current chunk; while in [`State::Size`], its size so far.
    remaining: u64,
    /// Extension and trailer bytes so far.
    overhead: usize,
}

// === impl Decoder ===

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { digits: 0 }, remaining: 0, overhead: 0 }
    }
}

impl Decoder {
    /// Looks at `input`; the caller removes what was found before it calls again (data may be removed in parts,
    /// told with [`Decoder::consumed`]).
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Found, ChunkedError> {
        match self.state {
            State::Data => {
                let available = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
                return Ok(if available == 0 { Found::More } else { Found::Data(available) });
            }
            State::Trailers => return self.trailers(input),
            State::Done => return Ok(Found::End(0)),
            _ => {}
        }
        for (index, byte) in input.iter().enumerate() {
            self.state = self.step(*byte)?;
            if matches!(self.state, State::Data | State::Trailers) {
                return Ok(Found::Skip(index + 1));
            }
        }
        Ok(if input.is_empty() { Found::More } else { Found::Skip(input.len()) })
    }

    /// `count` bytes of data were taken.
    pub(crate) fn consumed(&mut self, count: usize) {
        self.remaining -= count as u64;
        if self.remaining == 0 {
            self.state = State::DataCarriageReturn;
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkedError> {
        match (self.state, byte) {
            (State::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS {
                    return Err(ChunkedError::Size);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                self.remaining = self.remaining * 16 + digit;
                Ok(State::Size { digits: digits + 1 })
            }
            (State::Size { digits: 1.. } | State::SizeBlank, b' ' | b'\t') => {
                self.extension().map(|_| State::SizeBlank)
            }
            (State::Size { digits: 1.. } | State::SizeBlank, b';') => self.extension(),
            (State::Size { digits: 1.. } | State::Extension, b'\r') => Ok(State::SizeLineFeed),
            (State::Size { .. } | State::SizeBlank, _) => Err(ChunkedError::Size),
            // Visible text, blanks and obs-text; never a bare LF, which some readers take for the end of the line.
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(),
            (State::Extension, _) => Err(ChunkedError::Extension),
            (State::SizeLineFeed, b'\n') if self.remaining == 0 => Ok(State::Trailers),
            (State::SizeLineFeed, b'\n') => Ok(State::Data),
            (State::DataCarriageReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => Ok(State::Size { digits: 0 }),
            (State::SizeLineFeed | State::DataCarriageReturn | State::DataLineFeed, _) => {
                Err(ChunkedError::LineEnd)
            }
            (State::Data | State::Trailers | State::Done, _) => Ok(self.state),
        }
    }

    fn extension(&mut self) -> Result<State, ChunkedError> {
        self.overhead += 1;
        if self.overhead > OVERHEAD_LIMIT { Err(ChunkedError::TooLarge) } else { Ok(State::Extension) }
    }

    fn trailers(&mut self, input: &[u8]) -> Result<Found, ChunkedError> {
        let mut line_start = 0;
        for line_feed in memchr::memchr_iter(b'\n', input) {
            if line_feed == line_start || input[line_feed - 1] != b'\r' {
                return Err(ChunkedError::Trailer);
            }
            if line_feed - 1 == line_start {
                if line_feed + 1 + self.overhead > OVERHEAD_LIMIT {
                    return Err(ChunkedError::TooLarge);
                }
                self.state = State::Done;
                return Ok(Found::End(line_feed + 1));
            }
            line_start = line_feed + 1;
        }
        if input.len() + self.overhead > OVERHEAD_LIMIT {
            Err(ChunkedError::TooLarge)
        } else {
            Ok(Found::More)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, trailers and what follows the body.
    type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn decode(mut input: &[u8]) -> Result<Decoded, ChunkedError> {
        let mut decoder = Decoder::default();
        let mut data = Vec::new();
        loop {
            match decoder.decode(input)? {
                Found::Skip(count) => input = &input[count..],
                Found::Data(count) => {
                    data.extend_from_slice(&input[..count]);
                    decoder.consumed(count);
                    input = &input[count..];
                }
                Found::End(count) => return Ok((data, input[..count].to_vec(), input[count..].to_vec())),
                Found::More => panic!("incomplete"),
            }
        }
    }

    #[test]
    fn decodes_chunks_extensions_and_trailers_and_stops_there() {
        let (data, trailers, rest) =
            decode(b"4 ; a = b\r\nwiki\r\n5\r\npedia\r\n0;z\r\nx: y\r\n\r\nGET").expect("valid");
        assert_eq!(
            (&data[..], &trailers[..], &rest[..]),
            (&b"wikipedia"[..], &b"x: y\r\n\r\n"[..], &b"GET"[..])
        );
    }

    #[test]
    fn refuses_what_readers_disagree_on() {
        let cases: &[(&str, ChunkedError)] = &[
            ("0x4\r\nwiki\r\n", ChunkedError::Size),
            ("+4\r\nwiki\r\n", ChunkedError::Size),
            ("4_0\r\nwiki\r\n", ChunkedError::Size),
            (" 4\r\nwiki\r\n", ChunkedError::Size),
            ("4 \r\nwiki\r\n", ChunkedError::Size),
            ("\r\nwiki\r\n", ChunkedError::Size),
            (";a\r\n", ChunkedError::Size),
            ("10000000000000000\r\n", ChunkedError::Size),
            ("4\nwiki\r\n", ChunkedError::Size),
            ("4;a\nb\r\nwiki\r\n", ChunkedError::Extension),
            ("4;a\rb\r\nwiki\r\n", ChunkedError::LineEnd),
            ("4\r\nwikiX\r\n", ChunkedError::LineEnd),
            ("4\r\nwiki\n0\r\n\r\n", ChunkedError::LineEnd),
            ("0\r\nx: y\n\r\n", ChunkedError::Trailer),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text.as_bytes()).expect_err(text), *expected, "{text:?}");
        }
        let long = format!("1;{}\r\n", "e".repeat(OVERHEAD_LIMIT + 1));
        assert_eq!(decode(long.as_bytes()).expect_err("extension"), ChunkedError::TooLarge);
    }
}
