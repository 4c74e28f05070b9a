//! One form for every path, before anything is decided by it.
//!
//! Percent-encoded unreserved characters are decoded, `.` and `..` segments resolved, `\` becomes `/`, and, if asked,
//! runs of `/` are merged (RFC 3986 6.2.2). `..;a` is a `..` too: servlet containers drop what follows the semicolon
//! before they resolve. Encoded slashes are left as they are or refused, by configuration, and never
//! half decoded. The query is not touched.

/// What is done with `%2f` and `%5c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EscapedSlashes {
    Keep,
    Reject,
    /// Decoded before anything else.
    Unescape,
}

/// How paths are normalised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathRules {
    pub(crate) normalize: bool,
    pub(crate) merge_slashes: bool,
    pub(crate) escaped_slashes: EscapedSlashes,
}

/// The path has no normal form: a broken or forbidden escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPath;

impl PathRules {
    /// The normal form of `target` (path and query), or `None` if it is in normal form.
    pub(crate) fn apply(self, target: &[u8]) -> Result<Option<Vec<u8>>, BadPath> {
        if !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep {
            return Ok(None);
        }
        let end = memchr::memchr(b'?', target).unwrap_or(target.len());
        let (path, query) = target.split_at(end);
        if !path.starts_with(b"/") || !self.needs_work(path) {
            return Ok(None);
        }
        let decoded = self.decode(path)?;
        let resolved = if self.normalize { resolve(&decoded) } else { decoded };
        let mut result = if self.merge_slashes { merge(&resolved) } else { resolved };
        result.extend_from_slice(query);
        Ok(Some(result))
    }

    fn needs_work(self, path: &[u8]) -> bool {
        let mut before = 0;
        path.iter().any(|byte| {
            let after_slash = before == b'/';
            before = *byte;
            match byte {
                b'%' | b'\\' => true,
                b'.' => after_slash,
                b'/' => after_slash && self.merge_slashes,
                _ => false,
            }
        })
    }

    fn decode(self, path: &[u8]) -> Result<Vec<u8>, BadPath> {
        let mut result = Vec::with_capacity(path.len());
        let mut rest = path;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte == b'\\' && self.normalize {
                result.push(b'/');
                continue;
            }
            if *byte != b'%' {
                result.push(*byte);
                continue;
            }
            let (Some(high), Some(low)) = (after.first().and_then(hex), after.get(1).and_then(hex)) else {
                return Err(BadPath);
            };
            let value = high * 16 + low;
            match value {
                0 => return Err(BadPath),
                b'/' | b'\\' if self.escaped_slashes == EscapedSlashes::Reject => return Err(BadPath),
                b'/' | b'\\' if self.escaped_slashes == EscapedSlashes::Unescape => result.push(b'/'),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' if self.normalize => {
                    result.push(value)
                }
                _ => result.extend_from_slice(&[b'%', after[0], after[1]]),
            }
            rest = &after[2..];
        }
        Ok(result)
    }
}

fn hex(digit: &u8) -> Option<u8> {
    (*digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Removes `.` and `..` segments (RFC 3986 5.2.4); `..` never leads above the root.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut result: Vec<&[u8]> = Vec::new();
    let mut trailing = false;
    for segment in path[1..].split(|byte| *byte == b'/') {
        trailing = false;
        let plain = &segment[..memchr::memchr(b';', segment).unwrap_or(segment.len())];
        match plain {
            b"." => trailing = true,
            b".." => {
                result.pop();
                trailing = true;
            }
            _ => result.push(segment),
        }
    }
    let mut text = Vec::with_capacity(path.len());
    for segment in &result {
        text.push(b'/');
        text.extend_from_slice(segment);
    }
    if trailing || text.is_empty() {
        text.push(b'/');
    }
    text
}

fn merge(path: &[u8]) -> Vec<u8> {
    let mut result: Vec<u8> = Vec::with_capacity(path.len());
    for byte in path {
        if !(*byte == b'/' && result.last() == Some(&b'/')) {
            result.push(*byte);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PathRules =
        PathRules { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };

    fn normal(path: &str) -> Result<String, BadPath> {
        Ok(RULES
            .apply(path.as_bytes())?
            .map_or_else(|| path.to_owned(), |path| String::from_utf8(path).expect("stays text")))
    }

    #[test]
    fn gives_every_spelling_one_form() {
        for (path, expected) in [
            ("/a/b?x=/../%2e", "/a/b?x=/../%2e"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2e/b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/%41%7e", "/A~"),
            ("/a%2fb%5Cc", "/a%2fb%5Cc"),
            ("/a/..;/b", "/b"),
            ("/a/b/.;x=y", "/a/b/"),
            ("/a/%2e%2e;x/b", "/b"),
            ("/a;x/...;y/b", "/a;x/...;y/b"),
            ("/.hidden", "/.hidden"),
            ("/%c0%ae", "/%c0%ae"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn is_stable() {
        for path in ["/a/./b/../c", "/%2e%2e/x", "/a/%252e%252e/b", "//x/..//y"] {
            let once = normal(path).expect("valid");
            assert_eq!(normal(&once).as_deref(), Ok(once.as_str()), "{path}");
        }
    }

    #[test]
    fn refuses_what_has_no_form() {
        for path in ["/%", "/%4", "/%zz", "/a%00b"] {
            assert_eq!(normal(path), Err(BadPath), "{path}");
        }
        let strict = PathRules { escaped_slashes: EscapedSlashes::Reject, ..RULES };
        assert_eq!(strict.apply(b"/a%2Fb"), Err(BadPath));
    }
}
