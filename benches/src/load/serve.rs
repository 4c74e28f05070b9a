//! The upstream: answers from memory, in one thread.
//!
//! Compared with nginx it spends about half the time per request on the core that it shares with the load, so that the
//! load can saturate quicker proxies.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// First byte of a connection that wants back what it sends.
pub const ECHO: u8 = b'E';

/// First byte of a connection that takes bytes until it has enough.
pub const SOURCE: u8 = b'S';

/// Written at once to those who take bytes.
const CHUNK: usize = 256 * 1024;

/// Where it listens; printed as JSON.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ports {
    /// HTTP/1: `/`, `/10k` and `/1m`.
    pub http1: u16,
    /// Echo and source.
    pub tcp: u16,
}

/// The three answers, with their heads.
#[derive(Debug)]
struct Answers {
    small: Vec<u8>,
    ten_kilobytes: Vec<u8>,
    megabyte: Vec<u8>,
}

/// Binds both ports and serves until the process ends.
pub async fn serve(announce: impl FnOnce(Ports) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let [http1, tcp] = [listen()?, listen()?];
    announce(Ports { http1: http1.local_addr()?.port(), tcp: tcp.local_addr()?.port() })?;
    let answers = Arc::new(Answers {
        small: answer(b"hello from upstream\n"),
        ten_kilobytes: answer(&vec![b'x'; 10 * 1024]),
        megabyte: answer(&vec![b'x'; 1024 * 1024]),
    });
    loop {
        // A connection that breaks is the client's affair: it counts what fails.
        tokio::select! {
            accepted = http1.accept() => {
                let (stream, _) = accepted.context("cannot accept")?;
                tokio::spawn(requests(stream, Arc::clone(&answers)));
            }
            accepted = tcp.accept() => {
                let (stream, _) = accepted.context("cannot accept")?;
                tokio::spawn(bytes(stream));
            }
        }
    }
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4().context("no socket")?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).context("cannot bind")?;
    socket.listen(4096).context("cannot listen")
}

/// A head as nginx would send it.
fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn requests(mut stream: TcpStream, answers: Arc<Answers>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut start = 0;
        while let Some(length) = memchr::memmem::find(&buffer[start..filled], b"\r\n\r\n") {
            let head = &buffer[start..start + length];
            let answer = if head.starts_with(b"GET /10k ") {
                &answers.ten_kilobytes
            } else if head.starts_with(b"GET /1m ") {
                &answers.megabyte
            } else {
                &answers.small
            };
            stream.write_all(answer).await?;
            start += length + 4;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

async fn bytes(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        SOURCE => {
            let chunk = vec![b'x'; CHUNK];
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        _ => {
            let mut buffer = vec![0; 4096];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..count]).await?;
            }
        }
    }
}
