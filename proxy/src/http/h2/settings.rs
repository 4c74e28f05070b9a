//! The limits of HTTP/2 connections, in Envoy's words.

use std::time::Duration;

use super::meter::Budget;

/// What h2 may hold of one stream's body before the peer's window takes it.
const SEND_BUFFER: usize = 64 * 1024;
/// Stream errors that a peer may cause before its connection ends; h2's own default, said explicitly because it is the
/// answer to "MadeYouReset" (CVE-2025-8671).
const CAUSED_RESETS: usize = 1024;
/// Streams that a client may open and reset before we even looked at them (CVE-2023-44487).
const UNSEEN_RESETS: usize = 20;
/// Streams that we reset and remember, so that what was on its way is told from an attack, and for how long.
const REMEMBERED_RESETS: usize = 50;
const REMEMBERED_FOR: Duration = Duration::from_secs(1);
/// Heads of upstreams, with every field counted.
pub(crate) const RESPONSE_HEAD: u32 = 60 * 1024;

/// HTTP/2 limits. The defaults are those of Envoy's edge guide for clients, and of Envoy itself for upstreams.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Http2Settings {
    /// Towards clients what they may have open; towards upstreams what we put on one connection, if the peer allows it.
    pub(crate) max_concurrent_streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    /// The dynamic table that a peer may fill.
    pub(crate) hpack_table_size: u32,
    /// Resets that the peer's mistakes may cause.
    pub(crate) caused_resets: usize,
    pub(crate) budget: Budget,
    pub(crate) keepalive: Option<KeepalivePings>,
}

/// Pings that tell whether the peer is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepalivePings {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

// === impl Http2Settings ===

impl Http2Settings {
    /// What holds towards clients unless configured.
    pub(crate) fn downstream() -> Self {
        Self {
            max_concurrent_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            hpack_table_size: 4096,
            caused_resets: CAUSED_RESETS,
            budget: Budget::default(),
            keepalive: None,
        }
    }

    /// What holds towards upstreams unless configured.
    pub(crate) fn upstream() -> Self {
        Self { max_concurrent_streams: 1024, stream_window: 256 * 1024, ..Self::downstream() }
    }

    pub(super) fn server(&self, head_bytes: usize) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.max_concurrent_streams)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
            .header_table_size(self.hpack_table_size)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(self.caused_resets))
            .max_pending_accept_reset_streams(UNSEEN_RESETS)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR);
        builder
    }

    pub(crate) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_header_list_size(RESPONSE_HEAD)
            .header_table_size(self.hpack_table_size)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(self.caused_resets))
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(REMEMBERED_FOR);
        builder
    }
}
