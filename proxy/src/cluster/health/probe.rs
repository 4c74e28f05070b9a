//! Asking an endpoint how it is.

use std::{io, ops::Range};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::grpc;
use crate::{http::h1::parse, tls::Spoken};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    Http {
        method: &'static str,
        path: String,
        /// Empty for the cluster's name.
        host: String,
        /// Empty for 200 only.
        statuses: Vec<Range<u16>>,
        /// Failures that count towards the threshold; any other makes unfit at once.
        retriable: Vec<Range<u16>>,
    },
    Tcp {
        send: Vec<u8>,
        /// To be found in the answer, in this order.
        receive: Vec<Vec<u8>>,
    },
    /// `grpc.health.v1`.
    Grpc {
        service: String,
        /// Empty for the cluster's name.
        authority: String,
    },
}

/// What an endpoint said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Well,
    /// Counts towards the threshold, as no answer does.
    Failed,
    /// It says itself that it is not well: no more need to be asked.
    Unwell,
}

/// Largest answer that is looked at.
const MAX_ANSWER: usize = 16 * 1024;

// === impl Probe ===

impl Probe {
    pub(super) fn spoken(&self) -> Spoken {
        match self {
            Self::Http { .. } => Spoken::Http1,
            Self::Tcp { .. } => Spoken::Opaque,
            Self::Grpc { .. } => Spoken::Http2,
        }
    }

    /// What the other side of `stream` answers.
    pub(super) async fn ask(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        cluster: &str,
    ) -> io::Result<Verdict> {
        match self {
            Self::Http { method, path, host, statuses, retriable } => {
                let host = if host.is_empty() { cluster } else { host };
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weft/hc\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await?;
                stream.flush().await?;
                let status = read_status(&mut stream).await?;
                let within = |ranges: &[Range<u16>]| ranges.iter().any(|range| range.contains(&status));
                let well = if statuses.is_empty() { status == 200 } else { within(statuses) };
                Ok(match well {
                    true => Verdict::Well,
                    false if within(retriable) => Verdict::Failed,
                    false => Verdict::Unwell,
                })
            }
            Self::Tcp { send, receive } => {
                stream.write_all(send).await?;
                stream.flush().await?;
                Ok(if expect(&mut stream, receive).await? { Verdict::Well } else { Verdict::Failed })
            }
            Self::Grpc { service, authority } => {
                let authority = if authority.is_empty() { cluster } else { authority };
                grpc::check(stream, authority, service).await
            }
        }
    }
}

async fn read_status(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u16> {
    let mut answer = Vec::new();
    let mut scan = crate::http::h1::scan::HeadScan::default();
    loop {
        let end = scan.find(&answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if let Some(end) = end {
            let mut head = crate::http::head::Head::default();
            return parse::response(&answer[..end], &mut head, parse::MAX_FIELDS)
                .map(|()| head.status)
                .map_err(|_| io::ErrorKind::InvalidData.into());
        }
        read_more(stream, &mut answer).await?;
    }
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), receive: &[Vec<u8>]) -> io::Result<bool> {
    let mut answer = Vec::new();
    loop {
        let mut rest: &[u8] = &answer;
        let found = receive.iter().all(|wanted| match memchr::memmem::find(rest, wanted) {
            Some(at) => {
                rest = &rest[at + wanted.len()..];
                true
            }
            None => false,
        });
        if found {
            return Ok(true);
        }
        read_more(stream, &mut answer).await?;
    }
}

async fn read_more(stream: &mut (impl AsyncRead + Unpin), answer: &mut Vec<u8>) -> io::Result<()> {
    if answer.len() >= MAX_ANSWER || stream.read_buf(answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
