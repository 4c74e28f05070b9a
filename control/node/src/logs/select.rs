//! Which lines are shown, and how: the query parameters of `containerLogs`.

use std::time::Duration;

use jiff::Timestamp;

use super::LogLine;

/// The query parameters, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// Keep sending what is printed from now on, until the container ends.
    pub(crate) follow: bool,
    /// Only the last so many lines.
    pub(crate) tail: Option<usize>,
    /// Only lines from this moment on.
    pub(crate) since: Option<Timestamp>,
    /// Prefix each line with its time.
    pub(crate) timestamps: bool,
    /// The instance before the current one.
    pub(crate) previous: bool,
    /// Stop after so many bytes.
    pub(crate) limit_bytes: Option<u64>,
}

/// A query parameter has no valid value; the caller's fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum OptionError {
    #[error("query parameter {name}: {value:?} is not valid")]
    Invalid { name: &'static str, value: String },
    #[error("query parameters sinceSeconds and sinceTime exclude each other")]
    TwoSinces,
}

/// Applies the options to one line after the other.
#[derive(Debug)]
pub(crate) struct Selection {
    since: Option<Timestamp>,
    timestamps: bool,
    /// Bytes that may still be sent; `None`: any number.
    left: Option<u64>,
    /// Whether the next line continues one that has been printed, so that it gets no time of its own.
    continues: bool,
}

// === impl LogOptions ===

impl LogOptions {
    /// Parses the query of a request, as the kubelet reads it.
    pub(crate) fn from_query<'a>(
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        now: Timestamp,
    ) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for (name, value) in pairs {
            let invalid = |name| OptionError::Invalid { name, value: value.to_owned() };
            match name {
                "follow" => options.follow = parse_bool(value).ok_or_else(|| invalid("follow"))?,
                "timestamps" => {
                    options.timestamps = parse_bool(value).ok_or_else(|| invalid("timestamps"))?
                }
                "previous" => options.previous = parse_bool(value).ok_or_else(|| invalid("previous"))?,
                "tailLines" => options.tail = Some(value.parse().map_err(|_| invalid("tailLines"))?),
                "limitBytes" => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0);
                    options.limit_bytes = Some(limit.ok_or_else(|| invalid("limitBytes"))?);
                }
                "sinceSeconds" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                    let ago = Duration::from_secs(seconds.ok_or_else(|| invalid("sinceSeconds"))?);
                    let since = now.checked_sub(ago).map_err(|_| invalid("sinceSeconds"))?;
                    if options.since.replace(since).is_some() {
                        return Err(OptionError::TwoSinces);
                    }
                }
                "sinceTime" => {
                    let since = value.parse().map_err(|_| invalid("sinceTime"))?;
                    if options.since.replace(since).is_some() {
                        return Err(OptionError::TwoSinces);
                    }
                }
                // Other parameters are newer than we are; kubelets ignore them too.
                _ => {}
            }
        }
        Ok(options)
    }
}

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        // `?follow` without a value means yes, as in Kubernetes' conversion of query parameters.
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

// === impl Selection ===

impl Selection {
    pub(crate) fn new(options: &LogOptions) -> Self {
        Self {
            since: options.since,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            continues: false,
        }
    }

    /// Appends what is to be shown of `line` to `output`. `false`: the limit is reached, nothing more will be shown.
    pub(crate) fn apply(&mut self, line: &LogLine<'_>, output: &mut Vec<u8>) -> bool {
        if self.since.is_some_and(|since| line.time < since) {
            return !self.is_exhausted();
        }
        let start = output.len();
        if self.timestamps && !self.continues {
            output.extend_from_slice(line.time_text.as_bytes());
            output.push(b' ');
        }
        output.extend_from_slice(line.text);
        if line.full {
            output.push(b'\n');
        }
        self.continues = !line.full;
        if let Some(left) = &mut self.left {
            let written = output.len() - start;
            let kept = usize::try_from(*left).map_or(written, |left| written.min(left));
            output.truncate(start + kept);
            *left -= kept as u64;
        }
        !self.is_exhausted()
    }

    fn is_exhausted(&self) -> bool {
        self.left == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, text: &str, full: bool) -> String {
        format!("2026-11-23T21:00:{second:02}Z stdout {} {text}", if full { "F" } else { "P" })
    }

    fn shown(options: &LogOptions, lines: &[String]) -> String {
        let mut selection = Selection::new(options);
        let mut output = Vec::new();
        for line in lines {
            if !selection.apply(&LogLine::parse(line.as_bytes()).expect("valid"), &mut output) {
                break;
            }
        }
        String::from_utf8(output).expect("text")
    }

    fn parse(query: &[(&str, &str)]) -> Result<LogOptions, OptionError> {
        LogOptions::from_query(query.iter().copied(), "2026-11-23T21:01:00Z".parse().expect("a time"))
    }

    #[test]
    fn lines_before_the_moment_asked_for_are_left_out() {
        let options = parse(&[("sinceSeconds", "58")]).expect("valid");
        assert_eq!(shown(&options, &[line(1, "old", true), line(2, "new", true)]), "new\n");
    }

    #[test]
    fn parts_are_joined_and_have_one_time() {
        let options = parse(&[("timestamps", "true")]).expect("valid");
        assert_eq!(
            shown(&options, &[line(1, "one ", false), line(2, "line", true), line(3, "next", true)]),
            "2026-11-23T21:00:01Z one line\n2026-11-23T21:00:03Z next\n"
        );
    }

    #[test]
    fn the_limit_cuts_within_a_line_and_ends_the_output() {
        let options = parse(&[("limitBytes", "6")]).expect("valid");
        assert_eq!(
            shown(&options, &[line(1, "1234", true), line(2, "5678", true), line(3, "x", true)]),
            "1234\n5"
        );
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [
            ("follow", "maybe"),
            ("tailLines", "-1"),
            ("limitBytes", "0"),
            ("sinceSeconds", "x"),
            ("sinceTime", "noon"),
        ] {
            let error = parse(&[(name, value)]).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(
            parse(&[("sinceSeconds", "1"), ("sinceTime", "2026-11-23T21:00:00Z")]),
            Err(OptionError::TwoSinces)
        );
    }

    #[test]
    fn a_time_too_far_back_is_an_error_and_no_panic() {
        assert!(parse(&[("sinceSeconds", "18446744073709551615")]).is_err());
    }
}
