//! What a proxy is configured to do in a row of the comparison.

/// Protocols on either side of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// HTTP/1 on both sides.
    Http1,
    /// The same with ten HTTP filters and a thousand routes.
    Configured,
    /// HTTP/2 in the clear, by prior knowledge, on both sides.
    H2,
    /// HTTP/2 from clients, HTTP/1 to the upstream.
    H2ToHttp1,
    /// HTTP/1 from clients, HTTP/2 to the upstream.
    Http1ToH2,
    /// HTTP/1 over TLS 1.3 from clients, HTTP/1 in the clear to the upstream.
    Tls,
    /// HTTP/1 in the clear from clients, over mutual TLS 1.3 to the upstream.
    MutualTls,
    /// Bytes.
    Tcp,
}

/// Ports of what stands behind the proxies.
#[derive(Debug, Clone, Copy)]
pub struct Upstreams {
    /// HTTP/1.
    pub http1: u16,
    /// HTTP/2 in the clear.
    pub h2: u16,
    /// HTTP/1 over TLS; wants a certificate.
    pub mutual_tls: u16,
    /// Bytes: an echo, or as many as a client takes.
    pub tcp: u16,
}

// === impl Setup ===

impl Setup {
    /// What the marks in the configuration files name.
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Self::Http1 | Self::Tcp => &[],
            Self::Configured => &["configured"],
            Self::H2 => &["h2-down", "h2-up"],
            Self::H2ToHttp1 => &["h2-down"],
            Self::Http1ToH2 => &["h2-up"],
            Self::Tls => &["tls-down"],
            Self::MutualTls => &["tls-up"],
        }
    }

    /// The port behind a proxy with this set-up.
    pub fn upstream(self, upstreams: &Upstreams) -> u16 {
        match self {
            Self::Http1 | Self::Configured | Self::H2ToHttp1 | Self::Tls => upstreams.http1,
            Self::H2 | Self::Http1ToH2 => upstreams.h2,
            Self::MutualTls => upstreams.mutual_tls,
            Self::Tcp => upstreams.tcp,
        }
    }
}
