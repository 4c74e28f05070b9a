//! Message bodies on their way through, whatever the protocol on either side.

use crate::http::{
    h1::{self, write::WriteError},
    h2::{self, sink::H2Sink},
    io::IoError,
};

/// Fields that follow a body.
pub(crate) type Trailers = Vec<(Vec<u8>, Vec<u8>)>;

/// Where a body comes from.
pub(crate) enum Source<'a> {
    H1(h1::body::BodyReader<'a>),
    H2(h2::source::H2Source),
}

/// Where a body goes.
pub(crate) enum Sink<'a> {
    H1(h1::write::Writer<'a>),
    H2(H2Sink),
}

/// What a source has without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes at the start of its data.
    Data(usize),
    /// Nothing yet.
    Wait,
    /// The end.
    End,
}

/// Why a source ended early.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// The peer closed or broke the connection or the stream.
    Closed,
    /// The peer was silent for too long.
    Timeout,
    /// The framing is broken.
    Malformed,
}

/// Which side ended a transfer early.
#[derive(Debug)]
pub(crate) enum PumpError {
    Source(SourceError),
    Sink(WriteError),
}

/// Moves a whole body. What is there is written before waiting for more, so nothing is held back.
pub(crate) async fn pump(source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), PumpError> {
    loop {
        match source.step().map_err(PumpError::Source)? {
            Step::Data(count) => {
                sink.push(&source.data()[..count]).await.map_err(PumpError::Sink)?;
                source.consume(count);
            }
            Step::Wait => {
                sink.flush().await.map_err(PumpError::Sink)?;
                source.wait().await.map_err(PumpError::Source)?;
            }
            Step::End => {
                let trailers = source.take_trailers();
                sink.finish(trailers).await.map_err(PumpError::Sink)?;
                return sink.flush().await.map_err(PumpError::Sink);
            }
        }
    }
}

// === impl Source ===

impl Source<'_> {
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::H1(reader) => reader.is_done(),
            Self::H2(source) => source.is_done(),
        }
    }

    /// The whole body, if it is known to be all there. It can then be sent any number of times.
    pub(crate) fn complete(&self) -> Option<&[u8]> {
        match self {
            Self::H1(reader) => reader.complete(),
            Self::H2(source) => source.is_empty().then_some(&[]),
        }
    }

    /// Payload bytes so far.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::H1(reader) => reader.received,
            Self::H2(source) => source.received,
        }
    }

    /// Throws away what is there already; whether that was all.
    pub(crate) fn discard_buffered(&mut self) -> bool {
        loop {
            match self.step() {
                Ok(Step::Data(count)) => self.consume(count),
                Ok(Step::End) => return true,
                Ok(Step::Wait) | Err(_) => return false,
            }
        }
    }

    fn step(&mut self) -> Result<Step, SourceError> {
        match self {
            Self::H1(reader) => reader.step(),
            Self::H2(source) => Ok(source.step()),
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::H1(reader) => reader.data(),
            Self::H2(source) => source.data(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::H1(reader) => reader.consume(count),
            Self::H2(source) => source.consume(count),
        }
    }

    async fn wait(&mut self) -> Result<(), SourceError> {
        match self {
            Self::H1(reader) => reader.wait().await,
            Self::H2(source) => source.wait().await,
        }
    }

    fn take_trailers(&mut self) -> Trailers {
        match self {
            Self::H1(reader) => reader.take_trailers(),
            Self::H2(source) => source.take_trailers(),
        }
    }
}

// === impl Sink ===

impl Sink<'_> {
    /// Payload bytes so far.
    pub(crate) fn sent(&self) -> u64 {
        match self {
            Self::H1(writer) => writer.sent,
            Self::H2(sink) => sink.sent,
        }
    }

    /// Whether anything may have reached the peer.
    pub(crate) fn is_touched(&self) -> bool {
        match self {
            Self::H1(writer) => writer.touched,
            Self::H2(sink) => sink.is_touched(),
        }
    }

    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), WriteError> {
        match self {
            Self::H1(writer) => writer.push(data).await,
            Self::H2(sink) => sink.push(data).await,
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        match self {
            Self::H1(writer) => writer.flush().await,
            Self::H2(sink) => sink.flush().await,
        }
    }

    pub(crate) async fn finish(&mut self, trailers: Trailers) -> Result<(), WriteError> {
        match self {
            Self::H1(writer) => writer.finish(&trailers),
            Self::H2(sink) => sink.finish(trailers).await,
        }
    }
}

impl WriteError {
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(IoError::Timeout))
    }
}
