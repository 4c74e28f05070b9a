//! Which field is which.

/// Fields that the proxy itself has to look at; found once, when the head is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Any other field: passed on as it is.
    Other,
    Connection,
    KeepAlive,
    ProxyConnection,
    TransferEncoding,
    Te,
    Upgrade,
    Http2Settings,
    ContentLength,
    Host,
    Expect,
    Cookie,
    Date,
    Server,
    ContentType,
    XForwardedFor,
    XForwardedProto,
    XRequestId,
    /// `x-envoy-upstream-service-time`
    ServiceTime,
}

/// A set of kinds of fields.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen(u32);

// === impl Seen ===

impl Seen {
    pub(super) const HOP_BY_HOP: [Known; 7] = [
        Known::Connection,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::TransferEncoding,
        Known::Te,
        Known::Upgrade,
        Known::Http2Settings,
    ];

    pub(super) fn add(&mut self, known: Known) {
        self.0 |= 1 << known as u32;
    }

    pub(super) fn has(self, known: Known) -> bool {
        self.0 & (1 << known as u32) != 0
    }

    pub(super) fn has_hop_by_hop(self) -> bool {
        Self::HOP_BY_HOP.into_iter().any(|known| self.has(known))
    }
}

/// Finds out whether a field is one that we know. Length and first letter leave one candidate at most, so that a name
/// is compared once or, mostly, not at all.
pub(super) fn classify(name: &[u8]) -> Known {
    let Some(first) = name.first() else { return Known::Other };
    let (candidate, known): (&[u8], Known) = match (name.len(), first | 0x20) {
        (2, b't') => (b"te", Known::Te),
        (4, b'h') => (b"host", Known::Host),
        (4, b'd') => (b"date", Known::Date),
        (6, b'c') => (b"cookie", Known::Cookie),
        (6, b'e') => (b"expect", Known::Expect),
        (6, b's') => (b"server", Known::Server),
        (7, b'u') => (b"upgrade", Known::Upgrade),
        (10, b'c') => (b"connection", Known::Connection),
        (10, b'k') => (b"keep-alive", Known::KeepAlive),
        (12, b'c') => (b"content-type", Known::ContentType),
        (12, b'x') => (b"x-request-id", Known::XRequestId),
        (14, b'c') => (b"content-length", Known::ContentLength),
        (14, b'h') => (b"http2-settings", Known::Http2Settings),
        (15, b'x') => (b"x-forwarded-for", Known::XForwardedFor),
        (16, b'p') => (b"proxy-connection", Known::ProxyConnection),
        (17, b't') => (b"transfer-encoding", Known::TransferEncoding),
        (17, b'x') => (b"x-forwarded-proto", Known::XForwardedProto),
        (29, b'x') => (b"x-envoy-upstream-service-time", Known::ServiceTime),
        _ => return Known::Other,
    };
    if is_lower_case_of(name, candidate) { known } else { Known::Other }
}

/// Whether `lower` is `name` in lower case; for names of fields and of the same length only. Setting one bit makes
/// letters small and leaves digits and hyphens alone; what else it maps together is in no name that a parser lets pass.
fn is_lower_case_of(name: &[u8], lower: &[u8]) -> bool {
    // Without an early exit the compiler can do several bytes at once.
    name.iter().zip(lower).fold(0, |difference, (a, b)| difference | ((a | 0x20) ^ b)) == 0
}
