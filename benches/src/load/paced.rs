//! Requests at a constant rate, in an open loop.
//!
//! Each request has its planned time, and its latency counts from there: one that had to wait for the answer before it
//! on the same connection is charged for the wait, so a proxy that stalls cannot hide it by slowing the load down.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{PATIENCE, Report};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// Connections share the rate; each has its own place in the interval between two of its requests.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    first: Instant,
    interval: Duration,
    count: u32,
}

/// A timer of the kernel: the runtime's own are good to a millisecond only.
#[derive(Debug)]
struct Timer(AsyncFd<Handle>);

#[derive(Debug)]
struct Handle(TimerFd);

/// `rate` requests a second over `connections` connections for `length`.
pub async fn run(port: u16, connections: u32, rate: f64, length: Duration) -> anyhow::Result<Report> {
    ensure!(rate > 0.0 && connections > 0, "nothing to send");
    let interval = Duration::from_secs_f64(f64::from(connections) / rate);
    let count = (length.as_secs_f64() / interval.as_secs_f64()) as u32;
    let start = Instant::now() + Duration::from_millis(50);
    let mut running = JoinSet::new();
    for index in 0..connections {
        let first = start + interval.mul_f64(f64::from(index) / f64::from(connections));
        running.spawn(connection(port, Schedule { first, interval, count }));
    }
    let mut report = Report::default();
    let mut all = histogram()?;
    while let Some(joined) = running.join_next().await {
        match joined? {
            Ok(latencies) => {
                report.done += latencies.len();
                all.add(latencies).context("histograms differ")?;
            }
            Err(error) => report.count(Err(error)),
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report.latency = Some([0.5, 0.99, 0.999].map(|share| all.value_at_quantile(share) as f64 / 1e3));
    Ok(report)
}

async fn connection(port: u16, schedule: Schedule) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    let timer = Timer::new()?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("cannot connect")?;
    stream.set_nodelay(true).context("cannot set an option")?;
    let mut buffer = vec![0; 4096];
    for index in 0..schedule.count {
        let planned = schedule.first + schedule.interval * index;
        timer.until(planned).await?;
        timeout(PATIENCE, exchange(&mut stream, &mut buffer)).await.context("too slow")??;
        latencies.saturating_record(u64::try_from(planned.elapsed().as_nanos())?);
    }
    Ok(latencies)
}

/// The answer is small: it is complete when its body's last line is there.
async fn exchange(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    stream.write_all(REQUEST).await.context("cannot send")?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await.context("cannot receive")?;
        ensure!(count > 0, "no complete answer");
        filled += count;
        let answer = &buffer[..filled];
        if memchr::memmem::find(answer, b"\r\n\r\n").is_some_and(|end| answer[end + 4..].ends_with(b"\n")) {
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200");
            return Ok(());
        }
    }
}

/// Nanoseconds up to 10 seconds, three digits.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).context("no histogram")
}

// === impl Timer ===

impl Timer {
    fn new() -> anyhow::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context("no timer")?;
        #[expect(
            deprecated,
            reason = "the new one is unsafe; the handle owns its descriptor as long as it is registered"
        )]
        let timer = AsyncFd::new(Handle(timer)).context("cannot wait for a timer")?;
        Ok(Self(timer))
    }

    /// Returns at `moment`, at once if that is over.
    async fn until(&self, moment: Instant) -> anyhow::Result<()> {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
            self.0.get_ref().0.set(expiration, TimerSetTimeFlags::empty()).context("cannot set a timer")?;
            self.0.readable().await.context("cannot wait for a timer")?.clear_ready();
        }
    }
}

// === impl Handle ===

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
