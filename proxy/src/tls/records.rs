//! One session of rustls, driven over our own buffers: ciphertext is decrypted where it was received, and encrypted to
//! where it is sent from.

use std::fmt;

use rustls::{
    CommonState, Error,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic},
};

use super::buffer::Buffer;

/// The state of a session, whichever side of it we are.
pub(super) enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// How far the received bytes took the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It needs more of them.
    Starved,
    /// The reader has no room for more.
    Full,
    /// The peer said that nothing more comes.
    Ended,
}

/// What is to be done once the session takes our data.
enum Task<'d> {
    Nothing,
    Encrypt(&'d [u8]),
    Close,
}

/// The two kinds of session have one interface and no trait for it.
trait Records {
    type Side;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side>;
}

// === impl Session ===

impl Session {
    /// Processes what was received; `take` gets the plaintext and tells whether it has room for more.
    pub(super) fn receive(
        &mut self,
        incoming: &mut Buffer,
        outgoing: &mut Buffer,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Progress, Error> {
        self.advance(incoming, outgoing, take, Task::Nothing)
    }

    /// Encrypts `data`. What was received before is processed first, as rustls wants it.
    pub(super) fn send(
        &mut self,
        data: &[u8],
        incoming: &mut Buffer,
        outgoing: &mut Buffer,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Progress, Error> {
        self.advance(incoming, outgoing, take, Task::Encrypt(data))
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn close(
        &mut self,
        incoming: &mut Buffer,
        outgoing: &mut Buffer,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Progress, Error> {
        self.advance(incoming, outgoing, take, Task::Close)
    }

    /// Puts the alert that follows an error into `outgoing`. After it the session must not be touched any more: rustls
    /// takes a second error for a mistake of ours, and panics.
    pub(super) fn alert(&mut self, incoming: &mut Buffer, outgoing: &mut Buffer) {
        // As long as there is something to send, what was received is not looked at.
        while self.state().wants_write() {
            let said = match self {
                Self::Server(session) => said(&mut **session, incoming, outgoing),
                Self::Client(session) => said(&mut **session, incoming, outgoing),
            };
            if said.is_err() {
                return;
            }
        }
    }

    pub(super) fn state(&self) -> &CommonState {
        match self {
            Self::Server(session) => session,
            Self::Client(session) => session,
        }
    }

    fn advance(
        &mut self,
        incoming: &mut Buffer,
        outgoing: &mut Buffer,
        take: impl FnMut(&[u8]) -> bool,
        task: Task<'_>,
    ) -> Result<Progress, Error> {
        match self {
            Self::Server(session) => advance(&mut **session, incoming, outgoing, take, task),
            Self::Client(session) => advance(&mut **session, incoming, outgoing, take, task),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if matches!(self, Self::Server(_)) { "server" } else { "client" };
        f.debug_struct("Session").field("side", &side).finish_non_exhaustive()
    }
}

impl Records for UnbufferedServerConnection {
    type Side = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(input)
    }
}

impl Records for UnbufferedClientConnection {
    type Side = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(input)
    }
}

/// The session always gets to see all that was received and not processed: it remembers positions in it.
fn advance<S: Records>(
    session: &mut S,
    incoming: &mut Buffer,
    outgoing: &mut Buffer,
    mut take: impl FnMut(&[u8]) -> bool,
    mut task: Task<'_>,
) -> Result<Progress, Error> {
    let mut ended = false;
    loop {
        let UnbufferedStatus { mut discard, state } = session.process(incoming.data_mut());
        let result = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut result = Ok(None);
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            if !take(record.payload) && matches!(task, Task::Nothing) {
                                result = Ok(Some(Progress::Full));
                            }
                        }
                        Err(error) => result = Err(error),
                    }
                }
                result
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing).map(|()| None),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(None)
            }
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                Ok(None)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                match std::mem::replace(&mut task, Task::Nothing) {
                    Task::Nothing => Ok(Some(Progress::Starved)),
                    // Goes round once more, for what this may have brought about.
                    task => write(&mut traffic, &task, outgoing).map(|()| None),
                }
            }
            Ok(ConnectionState::Closed) => Ok(Some(Progress::Ended)),
            // No early data is ever offered or accepted.
            Ok(ConnectionState::ReadEarlyData(_)) => Err(Error::General("unasked early data".into())),
            Ok(_) => Ok(Some(Progress::Starved)),
        };
        if discard > 0 {
            incoming.consume(discard);
        }
        match result? {
            None => {}
            Some(_) if !matches!(task, Task::Nothing) => {
                return Err(Error::General("the session does not take data".into()));
            }
            Some(_) if ended => return Ok(Progress::Ended),
            Some(progress) => return Ok(progress),
        }
    }
}

/// Takes one thing that the session has to say.
fn said<S: Records>(session: &mut S, incoming: &mut Buffer, outgoing: &mut Buffer) -> Result<(), Error> {
    match session.process(incoming.data_mut()).state? {
        ConnectionState::EncodeTlsData(data) => encode(data, outgoing),
        ConnectionState::ReadTraffic(mut traffic) => {
            while traffic.next_record().is_some() {}
            Ok(())
        }
        _ => Err(Error::General("nothing to say".into())),
    }
}

fn encode<Side>(mut data: EncodeTlsData<'_, Side>, outgoing: &mut Buffer) -> Result<(), Error> {
    loop {
        match data.encode(outgoing.room()) {
            Ok(count) => {
                outgoing.filled(count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => outgoing.reserve(size.required_size),
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

fn write<Side>(
    traffic: &mut WriteTraffic<'_, Side>,
    task: &Task<'_>,
    outgoing: &mut Buffer,
) -> Result<(), Error> {
    loop {
        let written = match task {
            Task::Nothing => return Ok(()),
            Task::Encrypt(data) => traffic.encrypt(data, outgoing.room()),
            Task::Close => traffic.queue_close_notify(outgoing.room()),
        };
        match written {
            Ok(count) => {
                outgoing.filled(count);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => outgoing.reserve(size.required_size),
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}
