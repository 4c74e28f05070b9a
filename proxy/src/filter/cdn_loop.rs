//! `cdn_loop`: ends requests that come back to us again and again (RFC 8586).
//!
//! Source: Envoy's `envoy.extensions.filters.http.cdn_loop.v3`. The README shows this file as the example of a filter.

use weft_xds::{any, pb::envoy::extensions::filters::http::cdn_loop::v3::CdnLoopConfig};

use super::{Filter, Kind, Request, Step};
use crate::{
    config::{ConfigError, Path, value},
    http::{
        exchange::{Reason, Reply},
        head::{Head, tokens},
    },
};

/// The entry for the list in `config.rs`.
pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.cdn_loop.v3.CdnLoopConfig",
    compile: |path, config, _| {
        let message = value::unpacked(path, any::unpack::<CdnLoopConfig>(config))?;
        Ok(Box::new(compile(path, &message)?))
    },
    // Routes have nothing to say about it.
    of_route: None,
};

const FIELD: &[u8] = b"cdn-loop";

/// The filter. One for all threads, so it holds nothing but what is configured.
#[derive(Debug)]
struct CdnLoop {
    id: Vec<u8>,
    /// How often a request may have been here.
    allowed: usize,
}

// === impl CdnLoop ===

impl Filter for CdnLoop {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let Some(before) = occurrences(request.head, &self.id) else {
            return answer(400, Reason::CdnLoopInvalid, "Invalid CDN-Loop header in request.");
        };
        if before > self.allowed {
            return answer(502, Reason::CdnLoop, "The server has detected a loop between CDNs.");
        }
        request.head.append_to_list(FIELD, &self.id);
        Step::Continue
    }
}

fn answer<'r>(status: u16, reason: Reason, text: &'static str) -> Step<'r> {
    Step::Reply(Box::new(Reply::new(status, reason, text)))
}

/// How often `id` is named among those that a request has passed; `None` if the field is malformed.
fn occurrences(head: &Head, id: &[u8]) -> Option<usize> {
    let mut count = 0;
    for hop in head.get_all(FIELD).flat_map(tokens) {
        // What follows a semicolon are parameters.
        let name = hop.split(|byte| *byte == b';').next()?.trim_ascii();
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return None;
        }
        count += usize::from(name == id);
    }
    Some(count)
}

// === from the configuration ===

fn compile(path: &Path, message: &CdnLoopConfig) -> Result<CdnLoop, ConfigError> {
    let path = path.field("cdn_id");
    if message.cdn_id.is_empty() {
        return Err(path.missing());
    }
    Ok(CdnLoop {
        id: value::field_value(&path, message.cdn_id.as_bytes())?,
        allowed: message.max_allowed_occurrences as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_by_their_names_whatever_follows_them() {
        let mut head = Head::default();
        head.reset(b"");
        head.append(FIELD, b"other, us;v=1");
        head.append(FIELD, b"US, us");
        assert_eq!(occurrences(&head, b"us"), Some(2));
        head.append(FIELD, b"a b");
        assert_eq!(occurrences(&head, b"us"), None);
    }

    #[test]
    fn the_readme_shows_this_file_as_it_is() {
        let readme = include_str!("../../../README.md");
        let (code, _) = include_str!("cdn_loop.rs").split_once("\n#[cfg(test)]").expect("tests come last");
        assert!(readme.contains(&format!("```rust\n{code}```\n")), "README.md shows another cdn_loop.rs");
    }
}
