//! What is measured, and what Weft should reach.

use std::fmt;

use crate::setup::Setup;

/// One load against every proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Its name on the command line.
    pub key: &'static str,
    /// What the proxies are configured to do.
    pub setup: Setup,
    /// What they are given to do.
    pub load: Load,
}

/// A load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// wrk with so many connections.
    Wrk {
        /// Kept alive.
        connections: u32,
        /// What it asks for.
        path: &'static str,
    },
    /// h2load with so many connections and so many streams on each: requests in flight.
    H2load {
        /// Kept alive.
        connections: u32,
        /// At a time on each connection.
        streams: u32,
    },
    /// TCP streams that carry what they can.
    Bulk {
        /// At the same time.
        streams: u32,
    },
    /// TCP connections one after the other.
    Connect {
        /// At a time.
        tasks: u32,
    },
    /// Full TLS handshakes one after the other.
    Handshake {
        /// At a time.
        tasks: u32,
    },
    /// Requests at a constant rate.
    Paced {
        /// That share the rate.
        connections: u32,
    },
    /// Connections that idle.
    Held {
        /// How many.
        connections: u32,
    },
}

/// One number that a run gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// CPU of the proxy in microseconds per request, connection or handshake.
    Cpu,
    /// CPU of the proxy in seconds per gigabyte.
    CpuPerGigabyte,
    /// Requests, connections, handshakes or megabytes per second.
    Rate,
    /// Share of its core that the proxy used.
    Busy,
    /// Added latency in microseconds, median.
    P50,
    /// Added latency in microseconds, 99th percentile.
    P99,
    /// Added latency in microseconds, 99.9th percentile.
    P999,
    /// Resident megabytes after the start.
    Idle,
    /// Resident megabytes with idle connections.
    Held,
    /// Kilobytes per idle connection.
    PerConnection,
    /// The most megabytes that were resident.
    Peak,
}

/// What Weft should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// At most this share of the best of the others.
    OfBest(f64),
    /// At most this share of Envoy's.
    OfEnvoy(f64),
    /// At most this share of what Weft itself takes in another row.
    OfRow(&'static str, f64),
    /// At most this.
    AtMost(f64),
}

/// A line of the main table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// A panel of the chart.
    pub group: &'static str,
    /// What it says in the table.
    pub title: &'static str,
    /// Below its bars in the chart.
    pub short: &'static str,
    /// The row's name.
    pub row: &'static str,
    /// Which of the row's numbers.
    pub figure: Figure,
    /// If there is one.
    pub target: Option<Target>,
}

/// Every row, in the order of a round.
pub const ROWS: &[Row] = &[
    small("small-1", 1),
    small("small-16", 16),
    small("small-64", 64),
    small("small-256", 256),
    wrk("configured", Setup::Configured, 64, ""),
    wrk("body-10k", Setup::Http1, 64, "10k"),
    wrk("body-1m", Setup::Http1, 8, "1m"),
    h2("h2", Setup::H2),
    h2("h2-http1", Setup::H2ToHttp1),
    wrk("http1-h2", Setup::Http1ToH2, 64, ""),
    wrk("tls", Setup::Tls, 64, ""),
    Row { key: "handshake", setup: Setup::Tls, load: Load::Handshake { tasks: 32 } },
    wrk("mutual-tls", Setup::MutualTls, 64, ""),
    Row { key: "bulk-1", setup: Setup::Tcp, load: Load::Bulk { streams: 1 } },
    Row { key: "bulk-8", setup: Setup::Tcp, load: Load::Bulk { streams: 8 } },
    Row { key: "connect", setup: Setup::Tcp, load: Load::Connect { tasks: 32 } },
    Row { key: PACED, setup: Setup::Http1, load: Load::Paced { connections: 32 } },
    Row { key: "idle", setup: Setup::Http1, load: Load::Held { connections: 5000 } },
];

/// The row whose rate depends on the row [`MAXIMUM`].
pub const PACED: &str = "paced";

/// The row that tells each proxy's highest rate.
pub const MAXIMUM: &str = "small-64";

const REQUEST: &str = "HTTP/1, CPU µs per request";
const H2: &str = "HTTP/2, CPU µs per request";
const TLS: &str = "TLS, CPU µs per request or handshake";
const BYTES: &str = "Bytes, CPU s per GB";
const TCP: &str = "TCP, CPU µs per connection";
const LATENCY: &str = "Added latency at 30 % load, µs";
const MEMORY: &str = "Resident memory, MB";
const HELD: &str = "KB per idle connection";

/// Every line of the main table.
#[rustfmt::skip]
pub const LINES: &[Line] = &[
    line(REQUEST, "HTTP/1 small, 1 connection", "1 conn", "small-1", Figure::Cpu, Some(Target::OfBest(0.75))),
    line(REQUEST, "HTTP/1 small, 16 connections", "16", "small-16", Figure::Cpu, Some(Target::OfBest(0.75))),
    line(REQUEST, "HTTP/1 small, 64 connections", "64", "small-64", Figure::Cpu, Some(Target::OfBest(0.75))),
    line(REQUEST, "HTTP/1 small, 256 connections", "256", "small-256", Figure::Cpu, Some(Target::OfBest(0.75))),
    line(REQUEST, "HTTP/1 small, 64 connections, ten filters, 1,000 routes", "64, configured", "configured", Figure::Cpu, Some(Target::OfRow("small-64", 1.25))),
    line(REQUEST, "HTTP/1 10 KB, 64 connections", "10 KB, 64", "body-10k", Figure::Cpu, Some(Target::OfBest(0.8))),
    line(BYTES, "HTTP/1 1 MB, 8 connections", "HTTP 1 MB", "body-1m", Figure::CpuPerGigabyte, None),
    line(BYTES, "TCP bulk, 1 stream", "TCP 1 stream", "bulk-1", Figure::CpuPerGigabyte, Some(Target::OfBest(1.0))),
    line(BYTES, "TCP bulk, 8 streams", "TCP 8 streams", "bulk-8", Figure::CpuPerGigabyte, Some(Target::OfBest(1.0))),
    line(TCP, "TCP connections", "connect, echo, end", "connect", Figure::Cpu, Some(Target::OfBest(1.0))),
    line(H2, "h2c → h2c small", "h2c → h2c", "h2", Figure::Cpu, Some(Target::OfEnvoy(0.35))),
    line(H2, "h2c → HTTP/1 small", "h2c → HTTP/1", "h2-http1", Figure::Cpu, Some(Target::OfEnvoy(0.35))),
    line(H2, "HTTP/1 → h2c small, 64 connections", "HTTP/1 → h2c", "http1-h2", Figure::Cpu, None),
    line(TLS, "TLS 1.3 keep-alive small, 64 connections", "keep-alive", "tls", Figure::Cpu, Some(Target::OfBest(0.8))),
    line(TLS, "TLS 1.3 full handshake", "handshake", "handshake", Figure::Cpu, Some(Target::OfBest(1.0))),
    line(TLS, "mutual TLS to the upstream, small, 64 connections", "mutual TLS up", "mutual-tls", Figure::Cpu, Some(Target::OfBest(0.8))),
    line(LATENCY, "added latency, median", "p50", PACED, Figure::P50, Some(Target::OfBest(1.0))),
    line(LATENCY, "added latency, 99th percentile", "p99", PACED, Figure::P99, Some(Target::OfBest(1.0))),
    line(LATENCY, "added latency, 99.9th percentile", "p99.9", PACED, Figure::P999, None),
    line(MEMORY, "resident, idle", "idle", "idle", Figure::Idle, Some(Target::AtMost(6.0))),
    line(MEMORY, "resident, 5,000 idle connections", "5,000 idle", "idle", Figure::Held, None),
    line(MEMORY, "resident, peak, small with 256 connections", "256 busy", "small-256", Figure::Peak, None),
    line(MEMORY, "resident, peak, 1 MB with 8 connections", "1 MB bodies", "body-1m", Figure::Peak, None),
    line(HELD, "memory per idle connection", "5,000 idle", "idle", Figure::PerConnection, Some(Target::AtMost(1.0))),
];

const fn wrk(key: &'static str, setup: Setup, connections: u32, path: &'static str) -> Row {
    Row { key, setup, load: Load::Wrk { connections, path } }
}

const fn small(key: &'static str, connections: u32) -> Row {
    wrk(key, Setup::Http1, connections, "")
}

const fn h2(key: &'static str, setup: Setup) -> Row {
    Row { key, setup, load: Load::H2load { connections: 8, streams: 16 } }
}

const fn line(
    group: &'static str,
    title: &'static str,
    short: &'static str,
    row: &'static str,
    figure: Figure,
    target: Option<Target>,
) -> Line {
    Line { group, title, short, row, figure, target }
}

// === impl Figure ===

impl Figure {
    /// After the number.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "µs",
            Self::CpuPerGigabyte => "s/GB",
            Self::Rate => "/s",
            Self::Busy => "%",
            Self::P50 | Self::P99 | Self::P999 => "µs",
            Self::Idle | Self::Held | Self::Peak => "MB",
            Self::PerConnection => "KB",
        }
    }
}

// === impl Target ===

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfBest(share) => write!(f, "≤ {share:.2} of the best"),
            Self::OfEnvoy(share) => write!(f, "≤ {share:.2} of Envoy"),
            Self::OfRow(row, share) => write!(f, "≤ {share:.2} of {row}"),
            Self::AtMost(value) => write!(f, "≤ {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_row() {
        for line in LINES {
            assert!(ROWS.iter().any(|row| row.key == line.row), "{}", line.title);
            if let Some(Target::OfRow(other, _)) = line.target {
                assert!(ROWS.iter().any(|row| row.key == other), "{}", line.title);
            }
        }
    }

    #[test]
    fn the_row_that_gives_the_rate_comes_before_the_one_that_takes_it() {
        let place = |key| ROWS.iter().position(|row| row.key == key);
        assert!(place(MAXIMUM) < place(PACED));
    }
}
