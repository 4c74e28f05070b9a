//! TCP bulk: as many bytes as the proxy can carry.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::socket::{MsgFlags, recv};

use super::{PATIENCE, Report, serve::SOURCE};

/// Asked for at once.
const CHUNK: usize = 1024 * 1024;

/// `streams` connections take bytes for `length`.
pub fn run(port: u16, streams: u32, length: Duration) -> anyhow::Result<Report> {
    let started = Instant::now();
    let takers: Vec<_> = (0..streams).map(|_| thread::spawn(move || take(port, started + length))).collect();
    let mut report = Report::default();
    for taker in takers {
        match taker.join() {
            Ok(Ok(bytes)) => report.add(Report { done: 1, bytes, ..Report::default() }),
            Ok(Err(error)) => report.count(Err(error)),
            Err(_) => bail!("a thread of the load panicked"),
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn take(port: u16, until: Instant) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    stream.write_all(&[SOURCE]).context("cannot ask for bytes")?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    while Instant::now() < until {
        // For TCP this throws the bytes away without copying them: the load's core is for the upstream's copy.
        let count = recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC).context("cannot receive")?;
        if count == 0 {
            bail!("the proxy ended the stream");
        }
        bytes += count as u64;
    }
    Ok(bytes)
}
