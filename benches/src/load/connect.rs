//! TCP connection rate: connect, send 64 bytes, get them back, end in good order.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, Report, repeat, serve::ECHO};

const MESSAGE: [u8; 64] = [ECHO; 64];

/// `tasks` connections at a time for `length`.
pub async fn run(port: u16, tasks: u32, length: Duration) -> anyhow::Result<Report> {
    repeat(tasks, length, || async move { timeout(PATIENCE, once(port)).await.context("too slow")? }).await
}

async fn once(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("cannot connect")?;
    stream.write_all(&MESSAGE).await.context("cannot send")?;
    let mut back = [0; MESSAGE.len() - 1];
    stream.read_exact(&mut back).await.context("no echo")?;
    stream.shutdown().await.context("cannot end")?;
    ensure!(stream.read(&mut back).await.context("no end")? == 0, "bytes after the end");
    Ok(())
}
