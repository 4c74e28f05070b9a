//! Where a client keeps where it belongs.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use weft_xds::session_cookie;

use crate::{http::head::Head, route::affinity::Cookie};

/// A cookie or a field; the address is in it as base64.
#[derive(Debug)]
pub(super) enum State {
    Cookie(Cookie),
    Header(Vec<u8>),
}

// === impl State ===

impl State {
    /// Whether a request belongs to a session, or begins one: a cookie is for paths below its own.
    pub(super) fn is_for(&self, request: &Head) -> bool {
        match self {
            Self::Cookie(cookie) => is_below(request.target(), cookie.path.as_bytes()),
            Self::Header(_) => true,
        }
    }

    /// Where the client was sent before.
    pub(super) fn wanted(&self, request: &Head) -> Option<SocketAddr> {
        let text = match self {
            Self::Cookie(cookie) => {
                let bytes = BASE64_STANDARD.decode(cookie.value(request)?).ok()?;
                let (address, expires) = session_cookie::decode(&bytes)?;
                if expires != 0 && now() > expires {
                    return None;
                }
                address
            }
            Self::Header(name) => String::from_utf8(BASE64_STANDARD.decode(request.get(name)?).ok()?).ok()?,
        };
        text.parse().ok()
    }

    /// Tells the client where it was sent.
    pub(super) fn set(&self, response: &mut Head, address: SocketAddr) {
        let address = address.to_string();
        match self {
            Self::Cookie(cookie) => {
                let ttl = cookie.ttl.filter(|ttl| !ttl.is_zero());
                let expires = ttl.map_or(0, |ttl| now().saturating_add(ttl.as_secs()));
                let value = BASE64_STANDARD.encode(session_cookie::encode(&address, expires));
                response.append(b"set-cookie", &cookie.set(&value));
            }
            Self::Header(name) => response.set(name, BASE64_STANDARD.encode(address).as_bytes()),
        }
    }
}

/// Unlike Envoy, which counts from the start of its machine, so that a cookie is as good on another one.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// As browsers understand the path of a cookie.
fn is_below(target: &[u8], path: &[u8]) -> bool {
    match target.strip_prefix(path) {
        Some(rest) => {
            path.is_empty() || path.ends_with(b"/") || rest.first().is_none_or(|next| b"/?#".contains(next))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_paths_below_its_own() {
        for (target, path, is) in [
            ("/a", "", true),
            ("/a", "/", true),
            ("/a", "/a", true),
            ("/a?b", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/", false),
            ("/a/b", "/a/", true),
        ] {
            assert_eq!(is_below(target.as_bytes(), path.as_bytes()), is, "{target} below {path}");
        }
    }
}
