//! Session affinity: what of a request decides, by its hash, where it goes.
//!
//! The hashes are those of Envoy, so that both proxies send a client to the same endpoint.

use std::{net::IpAddr, time::Duration};

use regex::bytes::Regex;

use crate::{balance::xx, http::head::Head};

/// One thing that counts.
#[derive(Debug)]
pub(crate) struct Affinity {
    pub(crate) by: By,
    /// Whether nothing after this counts if this gave a hash.
    pub(crate) terminal: bool,
}

/// What counts.
#[derive(Debug)]
pub(crate) enum By {
    /// The values of a field, each rewritten first.
    Header {
        name: Vec<u8>,
        rewrite: Option<(Regex, Vec<u8>)>,
    },
    Cookie(Cookie),
    /// The address that the connection comes from.
    SourceIp,
    /// The first value of a parameter of the query.
    Query(Vec<u8>),
}

/// A cookie, which the client gets if it has none.
#[derive(Debug)]
pub(crate) struct Cookie {
    pub(crate) name: Vec<u8>,
    /// How long a client keeps what it gets, zero for its session; `None`: it gets none.
    pub(crate) ttl: Option<Duration>,
    pub(crate) path: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// The hash of a request, and the cookies that the client is to be given.
#[derive(Debug, Default)]
pub(crate) struct Affine {
    pub(crate) hash: Option<u64>,
    /// Values of `set-cookie`.
    pub(crate) cookies: Vec<Vec<u8>>,
}

/// Where a request comes from and came in.
#[derive(Clone, Copy)]
pub(crate) struct Between<'a> {
    pub(crate) source: IpAddr,
    /// Both addresses of the connection as text; what a new cookie is made from.
    pub(crate) connection: &'a dyn Fn() -> String,
}

/// What all of `by` say of a request together.
pub(crate) fn of(by: &[Affinity], request: &Head, between: Between<'_>) -> Affine {
    let mut found = Affine::default();
    for affinity in by {
        if let Some(new) = affinity.by.hash(request, between, &mut found.cookies) {
            // Rotated, so that two that are the same do not cancel each other out.
            found.hash = Some(found.hash.map_or(new, |hash| hash.rotate_left(1) ^ new));
            if affinity.terminal {
                break;
            }
        }
    }
    found
}

// === impl By ===

impl By {
    fn hash(&self, request: &Head, between: Between<'_>, cookies: &mut Vec<Vec<u8>>) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => {
                let mut values: Vec<Vec<u8>> = match name.as_slice() {
                    b":path" => vec![request.target().to_vec()],
                    b":authority" => vec![request.authority().to_vec()],
                    b":method" => vec![request.method_text().to_vec()],
                    name => request.get_all(name).map(<[u8]>::to_vec).collect(),
                };
                if let Some((pattern, substitution)) = rewrite {
                    for value in &mut values {
                        *value = pattern.replace_all(value, substitution.as_slice()).into_owned();
                    }
                }
                // In whatever order they come.
                values.sort();
                crate::balance::xx_all(&values)
            }
            Self::Cookie(cookie) => {
                if let Some(value) = cookie.value(request) {
                    return Some(xx(value));
                }
                cookie.ttl?;
                let value = format!("{:016x}", xx((between.connection)().as_bytes()));
                cookies.push(cookie.set(&value));
                Some(xx(value.as_bytes()))
            }
            Self::SourceIp => Some(xx(between.source.to_string().as_bytes())),
            Self::Query(name) => {
                let target = request.target();
                let query = &target[memchr::memchr(b'?', target)? + 1..];
                query
                    .split(|byte| *byte == b'&')
                    .find_map(|parameter| parameter.strip_prefix(name.as_slice())?.strip_prefix(b"="))
                    .map(xx)
            }
        }
    }
}

// === impl Cookie ===

impl Cookie {
    /// The value in a request; an empty one is none.
    pub(crate) fn value<'r>(&self, request: &'r Head) -> Option<&'r [u8]> {
        super::cookies::value_of(&self.name, request).filter(|value| !value.is_empty())
    }

    /// The `set-cookie` that gives it to a client.
    pub(crate) fn set(&self, value: &str) -> Vec<u8> {
        let mut text = [&self.name, b"=\"".as_slice(), value.as_bytes(), b"\"".as_slice()].concat();
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            text.extend_from_slice(format!("; Max-Age={}", ttl.as_secs()).as_bytes());
        }
        if !self.path.is_empty() {
            text.extend_from_slice(format!("; Path={}", self.path).as_bytes());
        }
        for (name, value) in &self.attributes {
            let attribute = if value.is_empty() { format!("; {name}") } else { format!("; {name}={value}") };
            text.extend_from_slice(attribute.as_bytes());
        }
        text.extend_from_slice(b"; HttpOnly");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::parse;

    fn request(text: &str) -> Head {
        let mut head = Head::default();
        parse::request(text.replace('\n', "\r\n").as_bytes(), &mut head, parse::MAX_FIELDS)
            .expect("a request");
        head
    }

    fn of_text(by: Vec<By>, text: &str) -> Affine {
        let by: Vec<_> = by.into_iter().map(|by| Affinity { by, terminal: true }).collect();
        let between =
            Between { source: [10, 0, 0, 1].into(), connection: &|| "10.0.0.1:1234127.0.0.1:80".into() };
        of(&by, &request(text), between)
    }

    fn header(name: &str) -> By {
        By::Header { name: name.into(), rewrite: None }
    }

    fn cookie(ttl: Option<u64>) -> By {
        By::Cookie(Cookie {
            name: b"stick".to_vec(),
            ttl: ttl.map(Duration::from_secs),
            path: "/shop".into(),
            attributes: vec![("SameSite".into(), "Lax".into()), ("Secure".into(), String::new())],
        })
    }

    #[test]
    fn fields_cookies_parameters_and_addresses_give_the_hash_of_their_text() {
        let text = "GET /a?x=1&user=me&user=you HTTP/1.1\nhost: h\nx-user: me\ncookie: a=b; stick=\"me\"\n\n";
        let me = Some(xx(b"me"));
        assert_eq!(of_text(vec![header("x-user")], text).hash, me);
        assert_eq!(of_text(vec![cookie(None)], text).hash, me);
        assert_eq!(of_text(vec![By::Query(b"user".to_vec())], text).hash, me);
        assert_eq!(of_text(vec![By::SourceIp], text).hash, Some(xx(b"10.0.0.1")));
        let digits = Regex::new("[0-9]+").expect("valid");
        let rewrite = By::Header { name: b":path".to_vec(), rewrite: Some((digits, b"N".to_vec())) };
        assert_eq!(
            of_text(vec![rewrite], "GET /a/12/b/34 HTTP/1.1\nhost: h\n\n").hash,
            Some(xx(b"/a/N/b/N"))
        );
        assert_eq!(of_text(vec![header("x-none"), By::Query(b"y".to_vec())], text).hash, None);
    }

    #[test]
    fn the_first_that_is_there_and_terminal_decides() {
        let text = "GET /a HTTP/1.1\nhost: h\nx-user: me\nx-other: other\n\n";
        assert_eq!(
            of_text(vec![header("x-none"), header("x-user"), header("x-other")], text).hash,
            Some(xx(b"me"))
        );
        let both = [header("x-user"), header("x-other")].map(|by| Affinity { by, terminal: false });
        let between = Between { source: [10, 0, 0, 1].into(), connection: &String::new };
        assert_eq!(of(&both, &request(text), between).hash, Some(xx(b"me").rotate_left(1) ^ xx(b"other")));
    }

    #[test]
    fn the_order_of_a_fields_values_does_not_matter() {
        let hash = |text| of_text(vec![header("x-user")], text).hash;
        let one = hash("GET / HTTP/1.1\nhost: h\nx-user: a\nx-user: b\n\n");
        assert_eq!(one, hash("GET / HTTP/1.1\nhost: h\nx-user: b\nx-user: a\n\n"));
        assert_ne!(one, hash("GET / HTTP/1.1\nhost: h\nx-user: a\n\n"));
    }

    #[test]
    fn a_client_without_the_cookie_is_given_one_that_leads_to_the_same_endpoint() {
        let first = of_text(vec![cookie(Some(60))], "GET / HTTP/1.1\nhost: h\n\n");
        let [set] = first.cookies.as_slice() else { panic!("one cookie: {first:?}") };
        let set = String::from_utf8(set.clone()).expect("text");
        let (pair, rest) = set.split_once(';').expect("attributes");
        assert_eq!(rest, " Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly");
        let second = of_text(vec![cookie(Some(60))], &format!("GET / HTTP/1.1\nhost: h\ncookie: {pair}\n\n"));
        assert_eq!((second.hash, second.cookies.len()), (first.hash, 0));
        assert_eq!(of_text(vec![cookie(None)], "GET / HTTP/1.1\nhost: h\n\n").hash, None);
    }
}
