//! Bodies in the codings that there are.
//!
//! A library holds its memory while a body is being compressed, never before its first byte: about 250 kB for gzip, 1 MB
//! for brotli and zstd with what is configured by default.

use std::{io::Write as _, sync::Arc};

use brotli::enc::{BrotliEncoderParams, backward_references::BrotliEncoderMode, writer::CompressorWriter};
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::stream::{raw::CParameter, write::Encoder};

use super::{COMPRESSED_BYTES, UNCOMPRESSED_BYTES};
use crate::{
    http::{
        body::Trailers,
        change::{Spoilt, Transform},
    },
    metrics::CounterSet,
};

/// A coding with its settings.
#[derive(Debug, Clone)]
pub(super) enum Library {
    Gzip { level: u32, window_bits: u8 },
    Brotli(Brotli),
    Zstd { level: i32, checksum: bool },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Brotli {
    pub(super) quality: u8,
    pub(super) mode: BrotliMode,
    pub(super) window_bits: u8,
    /// `None` is as many as suit the others.
    pub(super) block_bits: Option<u8>,
    pub(super) literal_context: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum BrotliMode {
    Generic,
    Text,
    Font,
}

/// One body on its way.
pub(super) struct Coder {
    state: State,
    stats: Arc<CounterSet>,
    worker: usize,
}

enum State {
    /// Nothing came yet.
    Waiting(Library, Option<u64>),
    Gzip(Box<Compress>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<Encoder<'static, Vec<u8>>>),
    Ended,
}

/// What follows the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    Flush,
    End,
}

/// A window of 256 kB for zstd, which otherwise takes megabytes for every body: what is to be found further back than this
/// is little in what is sent over HTTP.
const ZSTD_WINDOW_LOG: u32 = 18;
/// Room that gzip is given at a time.
const ROOM: usize = 4096;

// === impl Library ===

impl Library {
    /// As in `content-encoding`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli(_) => "br",
            Self::Zstd { .. } => "zstd",
        }
    }
}

// === impl Coder ===

impl Coder {
    /// For a body of this length, if it is known.
    pub(super) fn new(library: &Library, length: Option<u64>, stats: Arc<CounterSet>, worker: usize) -> Self {
        Self { state: State::Waiting(library.clone(), length), stats, worker }
    }

    fn run(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let before = out.len();
        if let State::Waiting(library, length) = &self.state {
            if data.is_empty() && then != Then::End {
                return Ok(());
            }
            self.state = State::start(library, *length)?;
        }
        self.state.run(data, then, out)?;
        self.stats.add_many(self.worker, UNCOMPRESSED_BYTES, data.len() as u64);
        self.stats.add_many(self.worker, COMPRESSED_BYTES, (out.len() - before) as u64);
        Ok(())
    }
}

impl Transform for Coder {
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
        self.run(data, Then::More, out)
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        self.run(b"", Then::Flush, out)
    }

    fn end(&mut self, _: &mut Trailers, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        self.run(b"", Then::End, out)
    }
}

// === impl State ===

impl State {
    fn start(library: &Library, length: Option<u64>) -> Result<Self, Spoilt> {
        Ok(match library {
            Library::Gzip { level, window_bits } => {
                Self::Gzip(Box::new(Compress::new_gzip(Compression::new(*level), *window_bits)))
            }
            Library::Brotli(settings) => {
                Self::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), ROOM, &settings.params())))
            }
            Library::Zstd { level, checksum } => {
                let mut encoder = Encoder::new(Vec::new(), *level).map_err(spoilt)?;
                encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG)).map_err(spoilt)?;
                encoder.include_checksum(*checksum).map_err(spoilt)?;
                encoder.set_pledged_src_size(length).map_err(spoilt)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    fn run(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        match self {
            Self::Gzip(compress) => gzip(compress, data, then, out)?,
            Self::Brotli(writer) => {
                writer.write_all(data).map_err(spoilt)?;
                if then == Then::Flush {
                    writer.flush().map_err(spoilt)?;
                }
                out.append(writer.get_mut());
            }
            Self::Zstd(encoder) => {
                encoder.write_all(data).map_err(spoilt)?;
                if then == Then::Flush {
                    encoder.flush().map_err(spoilt)?;
                }
                out.append(encoder.get_mut());
            }
            Self::Waiting(..) | Self::Ended => {}
        }
        if then == Then::End {
            match std::mem::replace(self, Self::Ended) {
                Self::Brotli(writer) => out.append(&mut writer.into_inner()),
                Self::Zstd(encoder) => out.append(&mut encoder.finish().map_err(spoilt)?),
                Self::Gzip(_) | Self::Waiting(..) | Self::Ended => {}
            }
        }
        Ok(())
    }
}

fn gzip(compress: &mut Compress, mut data: &[u8], then: Then, out: &mut Vec<u8>) -> Result<(), Spoilt> {
    let flush = match then {
        Then::More => FlushCompress::None,
        Then::Flush => FlushCompress::Sync,
        Then::End => FlushCompress::Finish,
    };
    loop {
        out.reserve(ROOM);
        let before = compress.total_in();
        let status = compress.compress_vec(data, out, flush).map_err(|_| Spoilt)?;
        data = &data[usize::try_from(compress.total_in() - before).map_err(|_| Spoilt)?..];
        let full = out.len() == out.capacity();
        let over = status == Status::StreamEnd || (then != Then::End && !full);
        if data.is_empty() && over {
            return Ok(());
        }
    }
}

fn spoilt(_: std::io::Error) -> Spoilt {
    Spoilt
}

// === impl Brotli ===

impl Brotli {
    fn params(self) -> BrotliEncoderParams {
        BrotliEncoderParams {
            quality: i32::from(self.quality),
            mode: match self.mode {
                BrotliMode::Generic => BrotliEncoderMode::BROTLI_MODE_GENERIC,
                BrotliMode::Text => BrotliEncoderMode::BROTLI_MODE_TEXT,
                BrotliMode::Font => BrotliEncoderMode::BROTLI_MODE_FONT,
            },
            lgwin: i32::from(self.window_bits),
            lgblock: self.block_bits.map_or(0, i32::from),
            disable_literal_context_modeling: i32::from(!self.literal_context),
            ..BrotliEncoderParams::default()
        }
    }
}
