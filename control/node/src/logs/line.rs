//! One line of a log in CRI format: `TIME STREAM FLAG TEXT`.

use jiff::Timestamp;

/// A parsed line; borrows from the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    /// The time as written, for output.
    pub(crate) time_text: &'a str,
    /// The same, for comparisons.
    pub(crate) time: Timestamp,
    /// Whether the line ends here; `false` for a part of a long one.
    pub(crate) full: bool,
    /// What the container printed, without the newline.
    pub(crate) text: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Parses one line without its newline; `None` if it is damaged (the machine stopped while it was written).
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time_text = std::str::from_utf8(fields.next()?).ok()?;
        let time = time_text.parse().ok()?;
        match fields.next()? {
            b"stdout" | b"stderr" => {}
            _ => return None,
        }
        let full = match fields.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time_text, time, full, text: fields.next()? })
    }

    /// Splits a line of the Docker Engine's (`TIME TEXT`), whose newline tells whether it is full.
    pub(crate) fn parse_docker(line: &'a [u8]) -> Option<Self> {
        let (full, line) = match line.strip_suffix(b"\n") {
            Some(line) => (true, line),
            None => (false, line),
        };
        let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let time_text = std::str::from_utf8(&line[..space]).ok()?;
        Some(Self {
            time_text,
            time: time_text.parse().ok()?,
            full,
            text: line.get(space + 1..).unwrap_or(&[]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_and_a_partial_line_are_told_apart() {
        let line = LogLine::parse(b"2026-11-23T21:00:00.5Z stdout F hello  world").expect("parses");
        assert_eq!((line.full, line.text), (true, b"hello  world".as_slice()));
        assert!(!LogLine::parse(b"2026-11-23T21:00:00Z stderr P half").expect("parses").full);
        assert_eq!(LogLine::parse(b"2026-11-23T21:00:00Z stdout F ").expect("parses").text, b"");
    }

    #[test]
    fn damaged_lines_are_refused() {
        for line in [
            b"".as_slice(),
            b"2026",
            b"yesterday stdout F x",
            b"2026-11-23T21:00:00Z disk F x",
            b"\xff\xfe a b c",
        ] {
            assert_eq!(LogLine::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_line_of_docker_keeps_its_text_and_knows_its_end() {
        let line = LogLine::parse_docker(b"2026-11-23T21:00:00.1Z a b\n").expect("parses");
        assert_eq!((line.full, line.text), (true, b"a b".as_slice()));
        assert!(!LogLine::parse_docker(b"2026-11-23T21:00:00.1Z part").expect("parses").full);
    }
}
