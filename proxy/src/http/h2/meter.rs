//! Counts the frames of a connection as they pass, and says when a peer sends what only an attack sends.
//!
//! The h2 crate bounds what it keeps; what it does not bound is the work that frames without a message cause: floods of
//! PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, empty DATA and CONTINUATION (CVE-2019-9511 to -9518,
//! CVE-2023-44487, CVE-2024-27316 and relatives). The rules and their names are Envoy's, but for those that Envoy does
//! not have. No I/O here: bytes in, a verdict out.

use std::time::Duration;

use tokio::time::Instant;

const HEAD: usize = 9;
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS; on SETTINGS and PING the same bit says "acknowledgement".
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes of one header block, over all its frames.
const MAX_HEADER_BLOCK: usize = 256 * 1024;
/// Frames that demand an answer (PING, SETTINGS) and resets are forgotten after this long.
const PERIOD: Duration = Duration::from_secs(10);
/// PING and SETTINGS per period that are free. Beyond them there may be one for each DATA frame that we sent: peers
/// measure the path with pings while they receive (gRPC's bandwidth estimation).
const FREE_ANSWERED: u64 = 100;
/// Resets per period that are free; beyond them, fewer than half of all streams may end so.
const FREE_RESETS: u64 = 100;

/// What a peer may send without a message in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub(crate) consecutive_empty: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub(crate) priority_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub(crate) window_updates_per_data: u32,
}

/// What a peer did too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flood {
    #[error("header block too large")]
    HeaderBlock,
    #[error("too many frames without payload")]
    Empty,
    #[error("too many PRIORITY frames")]
    Priority,
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    #[error("too many PING or SETTINGS frames")]
    Answered,
    #[error("too many resets")]
    Reset,
}

/// Finds frame heads in a stream of bytes that comes in any pieces.
#[derive(Debug, Default)]
struct Walker {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    filled: usize,
    /// Bytes to skip: the preface or the rest of a payload.
    skip: usize,
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
}

/// What happened since the period began.
#[derive(Debug, Default)]
struct Period {
    began: Option<Instant>,
    streams: u64,
    data_sent: u64,
    answered: u64,
    resets: u64,
}

/// Both directions of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Budget,
    inbound: Walker,
    outbound: Walker,
    /// Over the life of the connection.
    streams: u64,
    data_sent: u64,
    priorities: u64,
    window_updates: u64,
    /// In a row.
    empty: u32,
    /// Of the current header block.
    block: usize,
    period: Period,
}

// === impl Budget ===

impl Default for Budget {
    /// Envoy's defaults.
    fn default() -> Self {
        Self { consecutive_empty: 1, priority_per_stream: 100, window_updates_per_data: 10 }
    }
}

// === impl Meter ===

impl Meter {
    /// For a connection whose peer is a client.
    pub(crate) fn of_client(budget: Budget) -> Self {
        Self::new(budget, PREFACE, 0)
    }

    /// For a connection whose peer is a server.
    pub(crate) fn of_server(budget: Budget) -> Self {
        Self::new(budget, 0, PREFACE)
    }

    fn new(budget: Budget, skip_in: usize, skip_out: usize) -> Self {
        Self {
            budget,
            inbound: Walker { skip: skip_in, ..Walker::default() },
            outbound: Walker { skip: skip_out, ..Walker::default() },
            streams: 0,
            data_sent: 0,
            priorities: 0,
            window_updates: 0,
            empty: 0,
            block: 0,
            period: Period::default(),
        }
    }

    /// Looks at bytes that came.
    pub(crate) fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while let Some(head) = self.inbound.next(&mut bytes) {
            self.judge(head)?;
        }
        Ok(())
    }

    /// Looks at bytes that were sent.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.outbound.next(&mut bytes) {
            match head.kind {
                DATA => {
                    self.data_sent += 1;
                    self.period.data_sent += 1;
                }
                HEADERS => self.opened(),
                _ => {}
            }
        }
    }

    fn judge(&mut self, head: FrameHead) -> Result<(), Flood> {
        let budget = self.budget;
        match head.kind {
            DATA | HEADERS | CONTINUATION | PUSH_PROMISE => {
                if head.kind == CONTINUATION {
                    self.block += head.length;
                } else if head.kind != DATA {
                    self.block = head.length;
                }
                if self.block > MAX_HEADER_BLOCK {
                    return Err(Flood::HeaderBlock);
                }
                let ends = match head.kind {
                    DATA => head.flags & END_STREAM != 0,
                    _ => head.flags & END_HEADERS != 0,
                };
                if head.kind == HEADERS {
                    self.opened();
                }
                if head.length == 0 && !ends {
                    self.empty += 1;
                    if self.empty > budget.consecutive_empty {
                        return Err(Flood::Empty);
                    }
                } else {
                    self.empty = 0;
                }
            }
            PRIORITY => {
                self.priorities += 1;
                if self.priorities > u64::from(budget.priority_per_stream) * (1 + self.streams) {
                    return Err(Flood::Priority);
                }
            }
            WINDOW_UPDATE => {
                self.window_updates += 1;
                let per_data = u64::from(budget.window_updates_per_data) * self.data_sent;
                if self.window_updates > 5 + 2 * (self.streams + per_data) {
                    return Err(Flood::WindowUpdate);
                }
            }
            PING | SETTINGS if head.flags & END_STREAM == 0 => {
                self.period.renew();
                self.period.answered += 1;
                if self.period.answered > FREE_ANSWERED + self.period.data_sent {
                    return Err(Flood::Answered);
                }
            }
            RST_STREAM => {
                self.period.renew();
                self.period.resets += 1;
                if self.period.resets > FREE_RESETS && self.period.resets > self.period.streams / 2 {
                    return Err(Flood::Reset);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn opened(&mut self) {
        self.streams += 1;
        self.period.streams += 1;
    }
}

// === impl Period ===

impl Period {
    /// Begins a new period if this one is over. Asked only for the few frames that have one, so that the clock is not
    /// read for every frame.
    fn renew(&mut self) {
        let now = Instant::now();
        if self.began.is_none_or(|began| now - began > PERIOD) {
            *self = Self { began: Some(now), ..Self::default() };
        }
    }
}

// === impl Walker ===

impl Walker {
    /// The next head that is complete; takes what it has seen off `bytes`.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let taken = (HEAD - self.filled).min(bytes.len());
        self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
        self.filled += taken;
        if self.filled < HEAD {
            return None;
        }
        self.filled = 0;
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        Some(FrameHead { length, kind, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD + length, 0);
        bytes
    }

    fn meter() -> Meter {
        Meter::new(Budget::default(), 0, 0)
    }

    /// How many of these pass before the meter objects, and to what.
    fn until_flood(meter: &mut Meter, frame: &[u8]) -> (usize, Option<Flood>) {
        for count in 0..100_000 {
            if let Err(flood) = meter.received(frame) {
                return (count, Some(flood));
            }
        }
        (100_000, None)
    }

    #[test]
    fn every_kind_of_flood_has_its_end_and_ordinary_frames_have_none() {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, 20);
        for (kind, flags, length, expected) in [
            (PING, 0, 8, (100, Some(Flood::Answered))),
            (SETTINGS, 0, 0, (100, Some(Flood::Answered))),
            (PRIORITY, 0, 5, (100, Some(Flood::Priority))),
            (RST_STREAM, 0, 4, (100, Some(Flood::Reset))),
            (WINDOW_UPDATE, 0, 4, (5, Some(Flood::WindowUpdate))),
            (DATA, 0, 0, (1, Some(Flood::Empty))),
            (HEADERS, 0, 0, (1, Some(Flood::Empty))),
            (CONTINUATION, 0, 16 * 1024, (16, Some(Flood::HeaderBlock))),
            (PING, 1, 8, (100_000, None)),
            (SETTINGS, 1, 0, (100_000, None)),
            (DATA, 0, 1, (100_000, None)),
            (HEADERS, END_HEADERS, 30, (100_000, None)),
        ] {
            assert_eq!(
                until_flood(&mut meter(), &frame(kind, flags, length)),
                expected,
                "{kind} {flags} {length}"
            );
        }
        let mut busy = meter();
        for _ in 0..1000 {
            busy.received(&headers).expect("an ordinary request");
            busy.sent(&frame(DATA, 0, 10));
            busy.received(&frame(WINDOW_UPDATE, 0, 4)).expect("as many updates as data");
        }
    }

    #[test]
    fn resets_are_free_for_those_who_finish_most_streams() {
        let mut meter = meter();
        meter.received(&frame(RST_STREAM, 0, 4)).expect("the first");
        for round in 0..10_000 {
            meter.received(&frame(HEADERS, END_HEADERS, 9)).expect("a request");
            if round % 3 == 0 {
                meter.received(&frame(RST_STREAM, 0, 4)).expect("one of three");
            }
        }
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let stream: Vec<u8> = (0..20)
            .flat_map(|length| frame(HEADERS, END_HEADERS, length))
            .chain((0..101).flat_map(|_| frame(PING, 0, 8)))
            .collect();
        for size in [1, 2, 7, 9, 10, 64, 5000] {
            let mut meter = meter();
            let (last, before) = (stream.len() - 8, &stream[..stream.len() - 9]);
            for piece in before.chunks(size) {
                meter.received(piece).expect("within the budget");
            }
            assert_eq!(meter.streams, 20, "in pieces of {size}");
            assert_eq!(meter.received(&stream[last - 1..]), Err(Flood::Answered));
        }
    }
}
