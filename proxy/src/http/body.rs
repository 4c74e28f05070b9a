//! Message bodies on their way through, whatever the protocol on either side.

use crate::http::{
    change::Changed,
    h1::{self, write::WriteError},
    h2::{sink::H2Sink, source::H2Source},
};

/// Fields that follow a body.
pub(crate) type Trailers = Vec<(Vec<u8>, Vec<u8>)>;

/// The field of trailers that says how loaded an endpoint is.
pub(in crate::http) fn load_report(trailers: &Trailers) -> Option<Box<(Vec<u8>, Vec<u8>)>> {
    trailers.iter().find(|(name, _)| weft_xds::orca::is_report(name)).cloned().map(Box::new)
}

/// Where a body comes from.
pub(crate) enum Source<'a> {
    H1(h1::body::BodyReader<'a>),
    H2(H2Source),
    /// One of these, changed or held by filters.
    Changed(Box<Changed<'a>>),
    /// No body.
    Nothing,
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
    pump_seen(source, sink, |_| {}).await
}

/// The same; `see` is shown every piece.
pub(crate) async fn pump_seen(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    see: impl Fn(&[u8]),
) -> Result<(), PumpError> {
    loop {
        match source.step().map_err(PumpError::Source)? {
            Step::Data(count) => {
                see(&source.data()[..count]);
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
            Self::Changed(changed) => changed.is_done(),
            Self::Nothing => true,
        }
    }

    /// The whole body, if it is known to be all there. It can then be sent any number of times.
    pub(crate) fn complete(&self) -> Option<&[u8]> {
        match self {
            Self::H1(reader) => reader.complete(),
            Self::H2(source) => source.is_empty().then_some(&[]),
            Self::Changed(changed) => changed.complete(),
            Self::Nothing => Some(&[]),
        }
    }

    /// Payload bytes so far.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::H1(reader) => reader.received,
            Self::H2(source) => source.received,
            Self::Changed(changed) => changed.received(),
            Self::Nothing => 0,
        }
    }

    /// Throws away what is there already; whether that was all.
    pub(crate) fn discard_buffered(&mut self) -> bool {
        if let Self::Changed(changed) = self {
            return changed.discard_buffered();
        }
        loop {
            match self.step() {
                Ok(Step::Data(count)) => self.consume(count),
                Ok(Step::End) => return true,
                Ok(Step::Wait) | Err(_) => return false,
            }
        }
    }

    /// Gives `take` what is left, piece by piece; the trailers, or `None` as soon as it wants no more.
    pub(crate) async fn each(
        &mut self,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Trailers>, SourceError> {
        loop {
            match self.step()? {
                Step::Data(count) => {
                    if !take(&self.data()[..count]) {
                        return Ok(None);
                    }
                    self.consume(count);
                }
                Step::Wait => self.wait().await?,
                Step::End => return Ok(Some(self.take_trailers())),
            }
        }
    }

    /// The stream that it comes from, if it comes over HTTP/2.
    pub(crate) fn h2(&mut self) -> Option<&mut H2Source> {
        match self {
            Self::H2(source) => Some(source),
            Self::Changed(changed) => changed.h2(),
            Self::H1(_) | Self::Nothing => None,
        }
    }

    pub(super) fn step(&mut self) -> Result<Step, SourceError> {
        match self {
            Self::H1(reader) => reader.step(),
            Self::H2(source) => source.step(),
            Self::Changed(changed) => changed.step(),
            Self::Nothing => Ok(Step::End),
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        match self {
            Self::H1(reader) => reader.data(),
            Self::H2(source) => source.data(),
            Self::Changed(changed) => changed.data(),
            Self::Nothing => &[],
        }
    }

    pub(super) fn consume(&mut self, count: usize) {
        match self {
            Self::H1(reader) => reader.consume(count),
            Self::H2(source) => source.consume(count),
            Self::Changed(changed) => changed.consume(count),
            Self::Nothing => {}
        }
    }

    pub(super) async fn wait(&mut self) -> Result<(), SourceError> {
        match self {
            Self::H1(reader) => reader.wait().await,
            Self::H2(source) => source.wait().await,
            // Boxed so that bodies which nobody changes have a future no larger for it.
            Self::Changed(changed) => Box::pin(changed.wait()).await,
            Self::Nothing => Ok(()),
        }
    }

    /// What the trailers that were taken say of the endpoint's load.
    pub(crate) fn load_report(&self) -> Option<(&[u8], &[u8])> {
        let report = match self {
            Self::H1(reader) => reader.load_report.as_deref(),
            Self::H2(source) => source.load_report.as_deref(),
            Self::Changed(changed) => return changed.origin().load_report(),
            Self::Nothing => None,
        };
        report.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    pub(super) fn take_trailers(&mut self) -> Trailers {
        match self {
            Self::H1(reader) => reader.take_trailers(),
            Self::H2(source) => source.take_trailers(),
            Self::Changed(changed) => changed.take_trailers(),
            Self::Nothing => Trailers::new(),
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
