//! Base64 in pieces of any size.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::http::{
    body::Trailers,
    change::{Spoilt, Transform},
};

/// Four letters are three bytes.
const LETTERS: usize = 4;
const BYTES: usize = 3;

/// From text to bytes. Padding ends a group wherever it is: clients may send more than one text after the other.
#[derive(Default)]
pub(super) struct Decoder {
    /// Less than a group.
    rest: Vec<u8>,
}

/// From bytes to text.
#[derive(Default)]
pub(super) struct Encoder {
    /// Less than a group.
    rest: Vec<u8>,
}

// === impl Decoder ===

impl Transform for Decoder {
    fn data(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
        if !self.rest.is_empty() {
            let count = data.len().min(LETTERS - self.rest.len());
            self.rest.extend_from_slice(&data[..count]);
            data = &data[count..];
            if self.rest.len() < LETTERS {
                return Ok(());
            }
            decode(&self.rest, out)?;
            self.rest.clear();
        }
        let whole = data.len() / LETTERS * LETTERS;
        decode(&data[..whole], out)?;
        self.rest.extend_from_slice(&data[whole..]);
        Ok(())
    }

    fn end(&mut self, _: &mut Trailers, _: &mut Vec<u8>) -> Result<(), Spoilt> {
        if self.rest.is_empty() { Ok(()) } else { Err(Spoilt) }
    }
}

/// Decodes whole groups.
fn decode(mut text: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
    while !text.is_empty() {
        let padded = memchr::memchr(b'=', text);
        let end = padded.map_or(text.len(), |at| (at / LETTERS + 1) * LETTERS);
        STANDARD.decode_vec(&text[..end], out).map_err(|_| Spoilt)?;
        text = &text[end..];
    }
    Ok(())
}

// === impl Encoder ===

impl Encoder {
    pub(super) fn add(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            let count = data.len().min(BYTES - self.rest.len());
            self.rest.extend_from_slice(&data[..count]);
            data = &data[count..];
            if self.rest.len() < BYTES {
                return;
            }
            self.pad(out);
        }
        let whole = data.len() / BYTES * BYTES;
        encode(&data[..whole], out);
        self.rest.extend_from_slice(&data[whole..]);
    }

    /// Ends a text.
    pub(super) fn pad(&mut self, out: &mut Vec<u8>) {
        encode(&self.rest, out);
        self.rest.clear();
    }
}

fn encode(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(STANDARD.encode(data).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &[u8], piece: usize) -> Result<Vec<u8>, Spoilt> {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for piece in text.chunks(piece) {
            decoder.data(piece, &mut out)?;
        }
        decoder.end(&mut Vec::new(), &mut out)?;
        Ok(out)
    }

    #[test]
    fn pieces_of_any_size_are_the_same_text() {
        for piece in [1, 2, 3, 5, 100] {
            assert_eq!(decoded(b"YWJjZA==ZWY=Z2hp", piece).as_deref(), Ok(&b"abcdefghi"[..]), "{piece}");
            for bad in ["YWJ", "YW!j", "=WJj", "YW=j", "YQ=="] {
                assert_eq!(decoded(bad.as_bytes(), piece).is_err(), bad != "YQ==", "{bad}");
            }
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            for piece in b"abcdefgh".chunks(piece) {
                encoder.add(piece, &mut out);
            }
            encoder.pad(&mut out);
            encoder.pad(&mut out);
            assert_eq!(out, b"YWJjZGVmZ2g=");
        }
    }
}
