//! A TLS session on a socket.
//!
//! # Guarantees
//! * One read of the socket for each time that it is ready, one write for what one call of `try_write` takes.
//! * Ciphertext that the socket did not take is sent before anything else, and both directions drive it.
//! * The end of the connection without the peer's word for it is an error, not an end: what came may be cut short.
//! * A session without traffic holds no buffers.

use std::{
    cell::RefCell,
    io,
    net::Shutdown,
    task::{Context, Poll, ready},
};

use rustls::Error;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    buffer::Buffer,
    records::{Progress, Session},
};
use crate::net::exhausted;

/// Largest plaintext of one record.
const RECORD: usize = 16 * 1024;
/// Plaintext that one write takes at most; its ciphertext fits a buffer.
const WRITE: usize = 4 * RECORD;

/// A connection with TLS.
#[derive(Debug)]
pub(crate) struct TlsStream {
    pub(super) socket: TcpStream,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    session: Session,
    /// Received, and not decrypted yet.
    incoming: Buffer,
    /// What is in `incoming` is less than a record.
    starved: bool,
    /// Decrypted, and more than the reader had room for.
    plain: Buffer,
    /// Encrypted, and not taken by the socket yet.
    outgoing: Buffer,
    reading: Reading,
    ending: Ending,
    /// The session failed, and must not be asked for anything again.
    dead: bool,
}

/// What there is to expect of the peer.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Open,
    /// The peer said that nothing more comes.
    Ended,
    Broken(io::ErrorKind),
}

/// How far our own end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    /// The last word is in `outgoing`.
    Said,
    Done,
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The connection broke, or the peer closed it.
    Io(io::Error),
    /// One side refused the other.
    Tls(Error),
}

// === impl TlsStream ===

impl TlsStream {
    /// A session that begins on `socket`, of which `received` was read already.
    pub(super) fn new(socket: TcpStream, session: Session, received: &[u8]) -> Self {
        let mut incoming = Buffer::default();
        incoming.extend(received);
        let state = State {
            session,
            incoming,
            starved: false,
            plain: Buffer::default(),
            outgoing: Buffer::default(),
            reading: Reading::Open,
            ending: Ending::Open,
            dead: false,
        };
        Self { socket, state: RefCell::new(state) }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Looks at what was agreed with the peer.
    pub(super) fn with_state<T>(&self, look: impl FnOnce(&rustls::CommonState) -> T) -> T {
        look(self.state.borrow().session.state())
    }

    /// Goes on with the handshake; ready when application data may be sent.
    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        let mut state = self.state.borrow_mut();
        loop {
            if let Err(error) = state.advance() {
                let _ = state.flush(&self.socket);
                return Poll::Ready(Err(HandshakeError::Tls(error)));
            }
            match state.flush(&self.socket) {
                Ok(()) if !state.session.state().is_handshaking() => return Poll::Ready(Ok(())),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx)).map_err(HandshakeError::Io)?;
                    continue;
                }
                Err(error) => return Poll::Ready(Err(HandshakeError::Io(error))),
            }
            ready!(self.socket.poll_read_ready(cx)).map_err(HandshakeError::Io)?;
            match state.fill(&self.socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(HandshakeError::Io(error))),
            }
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if state.is_readable() {
            return Poll::Ready(Ok(()));
        }
        // Whoever only reads must see to it, too, that what the session has to say leaves.
        while !state.outgoing.is_empty() && self.socket.poll_write_ready(cx).is_ready() {
            match state.flush(&self.socket) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        self.socket.poll_read_ready(cx)
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        loop {
            if !state.plain.is_empty() {
                return Ok(state.plain.take_into(buffer));
            }
            if !state.incoming.is_empty() && !state.starved {
                let count = state.decrypt(&self.socket, buffer)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            match state.reading {
                Reading::Open => state.fill(&self.socket)?,
                Reading::Ended => return Ok(0),
                Reading::Broken(kind) => return Err(kind.into()),
            }
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx)
    }

    /// Encrypts some of `first` followed by `second`. What the socket does not take of it at once is kept: see
    /// [`TlsStream::try_flush`].
    pub(crate) fn try_write(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if state.ending != Ending::Open || state.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.flush(&self.socket)?;
        let mut taken = 0;
        let mut rest = (first, second);
        if !first.is_empty() && !second.is_empty() && first.len() < RECORD {
            let share = second.len().min(RECORD - first.len());
            // A head and its body share a record: one to encrypt, one to decrypt.
            let mut joined = Buffer::default();
            joined.extend(first);
            joined.extend(&second[..share]);
            state.encrypt(joined.data())?;
            taken = first.len() + share;
            rest = (&[], &second[share..]);
        }
        for piece in [rest.0, rest.1] {
            let piece = &piece[..piece.len().min(WRITE - taken.min(WRITE))];
            if !piece.is_empty() {
                state.encrypt(piece)?;
                taken += piece.len();
            }
        }
        match state.flush(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what was encrypted and not sent yet; `WouldBlock` if the peer must take something before.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        self.state.borrow_mut().flush(&self.socket)
    }

    /// Says that nothing more comes, and ends sending as soon as that is out.
    pub(crate) fn end(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.dead && state.ending == Ending::Open {
            // The alert was the last word.
            state.ending = Ending::Said;
        }
        if state.ending == Ending::Open {
            state.ending = Ending::Said;
            let State { session, incoming, outgoing, plain, .. } = &mut *state;
            let said = session.close(incoming, outgoing, |data| {
                plain.extend(data);
                true
            });
            if state.note(said).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        match state.flush(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

// === impl State ===

impl State {
    fn is_readable(&self) -> bool {
        !self.plain.is_empty()
            || (!self.incoming.is_empty() && !self.starved)
            || !matches!(self.reading, Reading::Open)
    }

    /// Processes what is there during the handshake.
    fn advance(&mut self) -> Result<(), Error> {
        let Self { session, incoming, outgoing, plain, .. } = self;
        let result = session.receive(incoming, outgoing, |data| {
            plain.extend(data);
            true
        });
        self.note(result)
    }

    /// Decrypts into `buffer`, and into `plain` what does not fit.
    fn decrypt(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { session, incoming, outgoing, plain, .. } = self;
        let mut count = 0;
        let result = session.receive(incoming, outgoing, |data| {
            let here = data.len().min(buffer.len() - count);
            buffer[count..count + here].copy_from_slice(&data[..here]);
            count += here;
            plain.extend(&data[here..]);
            count < buffer.len()
        });
        let noted = self.note(result);
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && noted.is_ok() && count == 0 => {
                return Err(error);
            }
            _ => {}
        }
        if count > 0 {
            return Ok(count);
        }
        match noted {
            Ok(()) => Ok(0),
            Err(error) => {
                tracing::debug!(%error, "tls session broke");
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    fn encrypt(&mut self, data: &[u8]) -> io::Result<()> {
        if self.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let Self { session, incoming, outgoing, plain, .. } = self;
        let result = session.send(data, incoming, outgoing, |data| {
            plain.extend(data);
            true
        });
        self.note(result).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Remembers what the session came to; an error has its alert sent.
    fn note(&mut self, result: Result<Progress, Error>) -> Result<(), Error> {
        match result {
            Ok(Progress::Starved) => self.starved = true,
            Ok(Progress::Full) => self.starved = false,
            Ok(Progress::Ended) => {
                self.starved = true;
                self.reading = Reading::Ended;
            }
            Err(error) => {
                self.dead = true;
                self.session.alert(&mut self.incoming, &mut self.outgoing);
                self.starved = true;
                self.reading = Reading::Broken(io::ErrorKind::InvalidData);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads once from the socket.
    fn fill(&mut self, socket: &TcpStream) -> io::Result<()> {
        let room = self.incoming.room();
        let size = room.len();
        if size == 0 {
            // No record and no handshake message is as large as this.
            self.reading = Reading::Broken(io::ErrorKind::InvalidData);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let result = socket.try_read(room);
        match result {
            Ok(0) => {
                self.incoming.consume(0);
                self.reading = Reading::Broken(io::ErrorKind::UnexpectedEof);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(count) => {
                self.incoming.filled(count);
                self.starved = false;
                if count < size {
                    exhausted(socket);
                }
                Ok(())
            }
            Err(error) => {
                // Gives the memory back that was taken for nothing.
                self.incoming.consume(0);
                Err(error)
            }
        }
    }

    /// Sends what is encrypted, and after the last word ends the sending.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.outgoing.drain(|data| socket.try_write(data))?;
        if self.ending == Ending::Said {
            self.ending = Ending::Done;
            return SockRef::from(socket).shutdown(Shutdown::Write);
        }
        Ok(())
    }
}
