//! Reading response heads from an upstream.

use crate::{
    http::{
        h1::{parse, scan::HeadScan},
        head::{Head, Known, Version, tokens},
        io::{IoError, RecvBuf},
    },
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// Largest response head; Envoy's default.
const MAX_HEAD: usize = 60 * 1024;

/// Why there is no response head.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection ended; `any` tells whether bytes of a response had come.
    Closed {
        any: bool,
    },
    Timeout,
    /// What came is not a response.
    Invalid,
}

/// Reads the next response head into `head`; ends at [`Deadline::Response`] as the caller armed it.
pub(crate) async fn read_head(
    stream: &Stream,
    recv: &mut RecvBuf,
    head: &mut Head,
    timer: &Timer,
) -> Result<(), ReadError> {
    let mut scan = HeadScan::default();
    loop {
        let found = scan.find(recv.data()).map_err(|_| ReadError::Invalid)?;
        if let Some(length) = found {
            parse::response(&recv.data()[..length], head, parse::DEFAULT_MAX_FIELDS)
                .map_err(|_| ReadError::Invalid)?;
            recv.consume(length);
            return Ok(());
        }
        if recv.data().len() >= MAX_HEAD {
            return Err(ReadError::Invalid);
        }
        match recv.fill(stream, MAX_HEAD, timer, Deadline::Response).await {
            Ok(0) => return Err(ReadError::Closed { any: !recv.is_empty() }),
            Ok(_) => {}
            Err(IoError::Timeout) => return Err(ReadError::Timeout),
            Err(IoError::Closed) => return Err(ReadError::Closed { any: !recv.is_empty() }),
        }
    }
}

/// Whether the upstream leaves the connection open after this response.
pub(crate) fn keeps_alive(head: &Head) -> bool {
    let says = |word: &[u8]| {
        head.all_known(Known::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(word))
    };
    match head.version {
        Version::Http10 => says(b"keep-alive") && !says(b"close"),
        Version::Http11 | Version::Http2 => !says(b"close"),
    }
}
