//! Connections that have had one answer each, and then idle.

use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

/// Opens `count` connections one after the other and gives them back.
pub async fn open(port: u16, count: u32) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for index in 0..count {
        let opened = timeout(PATIENCE, one(port)).await.context("too slow").and_then(|opened| opened);
        held.push(opened.with_context(|| format!("connection {index} of {count}"))?);
    }
    Ok(held)
}

async fn one(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("cannot connect")?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.context("cannot send")?;
    let mut buffer = [0; 2048];
    let mut filled = 0;
    while memchr::memmem::find(&buffer[..filled], b"hello from upstream\n").is_none() {
        let count = stream.read(&mut buffer[filled..]).await.context("cannot receive")?;
        ensure!(count > 0, "no complete answer");
        filled += count;
    }
    Ok(stream)
}
