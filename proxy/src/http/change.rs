//! Bodies that filters change, or wait for, on their way.
//!
//! # Guarantees
//! * A body is changed as it comes and no faster than it is taken: what is between is one piece of at most [`PIECE`] bytes
//!   and what the transformations made of it.
//! * When the source has nothing more for now, all that came before goes on: a transformation holds nothing back then.
//! * A request body that was all there before a filter changed it is all there afterwards, so that it can be sent again.

use std::pin::Pin;

use super::{
    body::{Source, SourceError, Step, Trailers},
    h1::framing::BodyLength,
    h2::source::H2Source,
};

/// How much is changed at a time.
const PIECE: usize = 16 * 1024;
/// A buffer that needed more room than this does not keep it.
const LARGE: usize = 64 * 1024;

/// Changes a body, piece by piece.
pub(crate) trait Transform {
    /// Takes `data`, which is not empty, and adds to `out` what can go on.
    fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt>;

    /// Nothing more is there for now: what was held back, if it can go on, is to be added to `out`.
    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let _ = out;
        Ok(())
    }

    /// That was all.
    fn end(&mut self, trailers: &mut Trailers, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let _ = (trailers, out);
        Ok(())
    }
}

/// A body is not what a transformation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spoilt;

/// What becomes of waiting for a whole body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    All,
    /// There is more than the limit.
    TooLong,
}

/// The future of [`RequestBody::hold`].
pub(crate) type Holding<'b> = Pin<Box<dyn Future<Output = Result<Held, SourceError>> + 'b>>;

/// The body of a request, as filters see it: those after the first see what the ones before made of it.
pub(crate) trait RequestBody {
    /// Puts `transform` around all that is still to come. What is there already is changed at once.
    fn change(&mut self, transform: Box<dyn Transform>) -> Result<(), Spoilt>;

    /// Waits for all of the body, unless it is longer than this.
    fn hold(&mut self, limit: usize) -> Holding<'_>;

    /// All of the body, if it is there.
    fn whole(&self) -> Option<&[u8]>;

    /// What was waited for: all of the body, or as much of it as came before it was too long.
    fn held(&self) -> &[u8];
}

/// Transformations, the first of which gets the body as it comes.
#[derive(Default)]
pub(crate) struct Changes {
    stages: Vec<Box<dyn Transform>>,
    /// What goes from one stage to the next.
    between: [Vec<u8>; 2],
}

/// A body with what is done to it.
pub(crate) struct Changed<'a> {
    origin: Source<'a>,
    changes: Changes,
    /// Of the changed body, what came and was not taken; the first `taken` bytes were.
    out: Vec<u8>,
    taken: usize,
    /// Whether anything came since the last flush.
    unflushed: bool,
    /// Whether `out` begins with the first byte of the body.
    from_start: bool,
    ended: bool,
    trailers: Trailers,
}

/// What follows a piece of data.
enum Then<'t> {
    More,
    Flush,
    End(&'t mut Trailers),
}

// === impl Changes ===

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    pub(crate) fn push(&mut self, transform: Box<dyn Transform>) {
        self.stages.push(transform);
    }

    /// What becomes of a whole body.
    pub(crate) fn whole(mut self, body: &[u8], trailers: &mut Trailers) -> Result<Vec<u8>, Spoilt> {
        let mut out = Vec::new();
        self.run(body, Then::End(trailers), &mut out)?;
        Ok(out)
    }

    /// How the end of a body of this length is known once it is changed.
    pub(crate) fn length(length: BodyLength) -> BodyLength {
        if length == BodyLength::Empty { length } else { BodyLength::Chunked }
    }

    fn run(&mut self, data: &[u8], mut then: Then<'_>, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let Some(last) = self.stages.len().checked_sub(1) else {
            out.extend_from_slice(data);
            return Ok(());
        };
        let [from, to] = &mut self.between;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let input = if index == 0 { data } else { &**from };
            to.clear();
            let output = if index == last { &mut *out } else { &mut *to };
            if !input.is_empty() {
                stage.data(input, output)?;
            }
            match &mut then {
                Then::More => {}
                Then::Flush => stage.flush(output)?,
                Then::End(trailers) => stage.end(trailers, output)?,
            }
            std::mem::swap(from, to);
        }
        Ok(())
    }
}

// === impl Changed ===

impl<'a> Changed<'a> {
    /// What is changed.
    pub(super) fn origin(&self) -> &Source<'a> {
        &self.origin
    }

    fn new(origin: Source<'a>, changes: Changes) -> Self {
        Self {
            origin,
            changes,
            out: Vec::new(),
            taken: 0,
            unflushed: false,
            from_start: true,
            ended: false,
            trailers: Trailers::new(),
        }
    }

    /// How the end of this body is known, if that of the original is known so.
    fn length(&self, length: BodyLength) -> BodyLength {
        match self.complete().map(<[u8]>::len) {
            Some(0) => BodyLength::Empty,
            Some(length) => BodyLength::Exact(length as u64),
            None => Changes::length(length),
        }
    }

    fn add(&mut self, mut transform: Box<dyn Transform>) -> Result<(), Spoilt> {
        let before = std::mem::take(&mut self.out);
        if !before.is_empty() {
            transform.data(&before, &mut self.out)?;
        }
        if self.ended {
            return transform.end(&mut self.trailers, &mut self.out);
        }
        self.changes.push(transform);
        // What could be sent again still can be: the buffer of a connection bounds how much that is.
        let whole = self.origin.complete().is_some();
        while whole && !self.ended {
            self.advance().map_err(|_| Spoilt)?;
        }
        Ok(())
    }

    /// Takes what the origin has into `out`; whether there was anything.
    fn advance(&mut self) -> Result<bool, SourceError> {
        let malformed = |_: Spoilt| SourceError::Malformed;
        match self.origin.step()? {
            Step::Data(count) => {
                let count = count.min(PIECE);
                self.unflushed = true;
                let data = &self.origin.data()[..count];
                self.changes.run(data, Then::More, &mut self.out).map_err(malformed)?;
                self.origin.consume(count);
                Ok(true)
            }
            Step::Wait if self.unflushed => {
                self.unflushed = false;
                self.changes.run(b"", Then::Flush, &mut self.out).map_err(malformed)?;
                Ok(true)
            }
            Step::Wait => Ok(false),
            Step::End => {
                self.trailers = self.origin.take_trailers();
                self.changes.run(b"", Then::End(&mut self.trailers), &mut self.out).map_err(malformed)?;
                self.ended = true;
                Ok(true)
            }
        }
    }

    async fn hold(&mut self, limit: usize) -> Result<Held, SourceError> {
        while !self.ended {
            if !self.advance()? {
                self.origin.wait().await?;
            }
            if self.out.len() > limit {
                return Ok(Held::TooLong);
            }
        }
        Ok(Held::All)
    }

    pub(super) fn is_done(&self) -> bool {
        self.ended && self.data().is_empty()
    }

    pub(super) fn complete(&self) -> Option<&[u8]> {
        (self.ended && self.from_start && self.trailers.is_empty()).then_some(&self.out)
    }

    pub(super) fn received(&self) -> u64 {
        self.origin.received()
    }

    pub(super) fn discard_buffered(&mut self) -> bool {
        self.out.clear();
        self.taken = 0;
        self.ended || self.origin.discard_buffered()
    }

    pub(super) fn h2(&mut self) -> Option<&mut H2Source> {
        self.origin.h2()
    }

    pub(super) fn step(&mut self) -> Result<Step, SourceError> {
        loop {
            if !self.data().is_empty() {
                return Ok(Step::Data(self.data().len()));
            }
            if self.ended {
                return Ok(Step::End);
            }
            if !self.advance()? {
                return Ok(Step::Wait);
            }
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.out[self.taken..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.from_start = false;
        self.taken += count;
        if self.taken == self.out.len() {
            self.taken = 0;
            self.out.clear();
            self.out.shrink_to(LARGE);
        }
    }

    pub(super) async fn wait(&mut self) -> Result<(), SourceError> {
        self.origin.wait().await
    }

    pub(super) fn take_trailers(&mut self) -> Trailers {
        std::mem::take(&mut self.trailers)
    }
}

// === impl Source ===

impl<'a> Source<'a> {
    /// This body with these changes.
    pub(crate) fn changed(self, changes: Changes) -> Self {
        Self::Changed(Box::new(Changed::new(self, changes)))
    }

    /// How the end of a request is known, after the filters: `length` is how it came.
    pub(crate) fn length(&self, length: BodyLength) -> BodyLength {
        if let Self::Changed(changed) = self { changed.length(length) } else { length }
    }

    fn ensure_changed(&mut self) -> &mut Changed<'a> {
        if !matches!(self, Self::Changed(_)) {
            *self = std::mem::replace(self, Self::Nothing).changed(Changes::default());
        }
        match self {
            Self::Changed(changed) => changed,
            _ => unreachable!("was put there above"),
        }
    }
}

impl RequestBody for Source<'_> {
    fn change(&mut self, transform: Box<dyn Transform>) -> Result<(), Spoilt> {
        self.ensure_changed().add(transform)
    }

    fn hold(&mut self, limit: usize) -> Holding<'_> {
        let ready = match self.complete() {
            Some(body) if body.len() > limit => Held::TooLong,
            Some(_) => Held::All,
            None => return Box::pin(self.ensure_changed().hold(limit)),
        };
        Box::pin(std::future::ready(Ok(ready)))
    }

    fn whole(&self) -> Option<&[u8]> {
        self.complete()
    }

    fn held(&self) -> &[u8] {
        match self {
            Self::Changed(changed) => changed.data(),
            _ => self.complete().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
