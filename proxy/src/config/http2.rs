//! Compiling HTTP/2 options.

use std::time::Duration;

use weft_xds::pb::{envoy::config::core::v3::Http2ProtocolOptions, google::protobuf::UInt32Value};

use super::{ConfigError, Path, unsupported, value};
use crate::http::h2::{Budget, Http2Settings, KeepalivePings};

/// The largest window and stream count that the protocol can say.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The smallest window that Envoy allows; anything below only costs frames.
const MIN_WINDOW: u32 = 65_535;
/// Frames that one stream may have queued: its head, 64 KiB of data, trailers, a reset.
const FRAMES_PER_STREAM: u32 = 8;
/// What a keep-alive ping waits for its answer unless configured.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Compiles the options of a cluster.
pub(super) fn upstream(path: &Path, options: &Http2ProtocolOptions) -> Result<Http2Settings, ConfigError> {
    compile(path, options, Http2Settings::upstream())
}

/// Compiles options; what they leave open is as in `defaults`.
pub(super) fn compile(
    path: &Path,
    options: &Http2ProtocolOptions,
    defaults: Http2Settings,
) -> Result<Http2Settings, ConfigError> {
    unsupported!(path, options; allow_connect, allow_metadata, custom_settings_parameters, max_metadata_size);
    if options.override_stream_error_on_invalid_http_message.as_ref().is_some_and(|value| !value.value) {
        let path = path.field("override_stream_error_on_invalid_http_message");
        return Err(path.error("an invalid message always ends its stream only (RFC 9113 8.1.1)"));
    }
    let streams = number(
        path,
        "max_concurrent_streams",
        options.max_concurrent_streams.as_ref(),
        (1, MAX_WINDOW),
        defaults.max_concurrent_streams,
    )?;
    // What is queued is bounded for each stream, in bytes; as a count of frames it never exceeds this.
    let queued = FRAMES_PER_STREAM.saturating_mul(streams);
    number(path, "max_outbound_frames", options.max_outbound_frames.as_ref(), (queued, u32::MAX), queued)?;
    // PING and SETTINGS queue one answer each, since no more is read before it is written; resets are what remains.
    let control = options.max_outbound_control_frames.as_ref();
    let control = number(path, "max_outbound_control_frames", control, (1, u32::MAX), u32::MAX)?;
    let window = |name: &str, value: Option<&UInt32Value>, default: u32| {
        number(path, name, value, (MIN_WINDOW, MAX_WINDOW), default)
    };
    let budget = |name: &str, value: Option<&UInt32Value>, default: u32| {
        number(path, name, value, (0, u32::MAX), default)
    };
    Ok(Http2Settings {
        max_concurrent_streams: streams,
        stream_window: window(
            "initial_stream_window_size",
            options.initial_stream_window_size.as_ref(),
            defaults.stream_window,
        )?,
        connection_window: window(
            "initial_connection_window_size",
            options.initial_connection_window_size.as_ref(),
            defaults.connection_window,
        )?,
        hpack_table_size: number(
            path,
            "hpack_table_size",
            options.hpack_table_size.as_ref(),
            (0, 64 * 1024),
            defaults.hpack_table_size,
        )?,
        caused_resets: defaults.caused_resets.min(control as usize),
        budget: Budget {
            consecutive_empty: budget(
                "max_consecutive_inbound_frames_with_empty_payload",
                options.max_consecutive_inbound_frames_with_empty_payload.as_ref(),
                defaults.budget.consecutive_empty,
            )?,
            priority_per_stream: budget(
                "max_inbound_priority_frames_per_stream",
                options.max_inbound_priority_frames_per_stream.as_ref(),
                defaults.budget.priority_per_stream,
            )?,
            window_updates_per_data: number(
                path,
                "max_inbound_window_update_frames_per_data_frame_sent",
                options.max_inbound_window_update_frames_per_data_frame_sent.as_ref(),
                (1, u32::MAX),
                defaults.budget.window_updates_per_data,
            )?,
        },
        keepalive: keepalive(path, options)?,
    })
}

fn keepalive(path: &Path, options: &Http2ProtocolOptions) -> Result<Option<KeepalivePings>, ConfigError> {
    let Some(keepalive) = &options.connection_keepalive else { return Ok(None) };
    let path = path.field("connection_keepalive");
    unsupported!(path, keepalive; connection_idle_interval);
    let interval = value::maybe_duration(&path.field("interval"), keepalive.interval.as_ref())?;
    let timeout = value::maybe_duration(&path.field("timeout"), keepalive.timeout.as_ref())?;
    if interval.is_some_and(|interval| interval < Duration::from_millis(1)) {
        return Err(path.field("interval").error("must be at least 1 ms"));
    }
    Ok(interval.map(|interval| KeepalivePings { interval, timeout: timeout.unwrap_or(PING_TIMEOUT) }))
}

/// A number within bounds.
fn number(
    path: &Path,
    name: &str,
    value: Option<&UInt32Value>,
    (min, max): (u32, u32),
    default: u32,
) -> Result<u32, ConfigError> {
    match value.map(|value| value.value) {
        None => Ok(default),
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(_) => Err(path.field(name).error(format!("must be from {min} to {max}"))),
    }
}
