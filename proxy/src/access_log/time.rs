//! The time of a line.

use std::io::Write as _;

use jiff::Timestamp;

/// How a time is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimeFormat(String);

/// Envoy's default.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";

// === impl TimeFormat ===

impl TimeFormat {
    /// Compiles a `strftime` format with the fractions of a second that Envoy has: `%f`, `%1f` to `%9f`.
    pub(crate) fn new(format: &str) -> Result<Self, String> {
        if format.is_empty() {
            return Ok(Self(DEFAULT.to_owned()));
        }
        // Envoy's `%f` is nanoseconds with all their zeros.
        let format = format.replace("%f", "%9f");
        jiff::fmt::strtime::format(&format, Timestamp::UNIX_EPOCH)
            .map_err(|error| format!("{format:?} is not a time format: {error}"))?;
        Ok(Self(format))
    }

    pub(crate) fn write(&self, time: Timestamp, out: &mut Vec<u8>) {
        // Neither can a Vec fail nor a format that was tried before.
        let _ = write!(out, "{}", time.strftime(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: &str) -> String {
        let mut out = Vec::new();
        let time = Timestamp::new(1_795_485_731, 569_084_000).expect("a time");
        TimeFormat::new(format).expect("valid").write(time, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn times_look_as_envoy_writes_them() {
        // What Envoy 1.40 wrote for this moment.
        assert_eq!(shown(""), "2026-11-24T02:02:11.569Z");
        assert_eq!(
            shown("%Y/%m/%dT%H:%M:%S%z %s %3f %f %6f"),
            "2026/11/24T02:02:11+0000 1795485731 569 569084000 569084"
        );
    }

    #[test]
    fn what_is_no_format_is_refused() {
        assert!(TimeFormat::new("%Q%").is_err());
    }
}
