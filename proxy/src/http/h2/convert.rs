//! Heads between h2's types and ours.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, request::Parts, uri};

use crate::http::{
    h1::{
        framing::BodyLength,
        parse::{self, ParseError, is_authority},
    },
    head::{Head, Known, Method, Span, Version},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Fills `head` from a request that came over HTTP/2.
pub(crate) fn read_request(parts: &Parts, head: &mut Head, max_fields: usize) -> Result<(), ParseError> {
    head.reset(b"");
    head.version = Version::Http2;
    let method = head.intern(parts.method.as_str().as_bytes());
    head.set_method(Method::parse(parts.method.as_str().as_bytes()), method);
    if head.method == Method::Connect {
        return Err(ParseError::Connect);
    }
    if parts.headers.len() > max_fields {
        return Err(ParseError::TooManyFields);
    }
    read_fields(&parts.headers, head)?;
    let authority = match parts.uri.authority() {
        Some(authority) => {
            let authority = authority.as_str().as_bytes();
            // Whoever sees two names may choose the other one (RFC 9113 8.3.1).
            if !head.all_known(Known::Host).all(|host| host.eq_ignore_ascii_case(authority)) {
                return Err(ParseError::Host);
            }
            head.intern(authority)
        }
        None => {
            let mut hosts = head.all_known(Known::Host);
            let host = match (hosts.next(), hosts.next()) {
                (Some(host), None) => host.to_vec(),
                _ => return Err(ParseError::Host),
            };
            drop(hosts);
            head.intern(&host)
        }
    };
    if !is_authority(head.get_span(authority)) {
        return Err(ParseError::Host);
    }
    head.set_authority(authority);
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if !(target.starts_with('/') || (target == "*" && head.method == Method::Options)) || target.contains('#')
    {
        return Err(ParseError::Target);
    }
    let target = head.intern(target.as_bytes());
    head.set_target(target);
    Ok(())
}

/// The request for an upstream that speaks HTTP/2; `None` if the head cannot be said in HTTP/2.
pub(crate) fn write_request(
    head: &Head,
    host: &[u8],
    length: Option<u64>,
    trailers: bool,
) -> Option<Request<()>> {
    let mut uri = uri::Parts::default();
    uri.scheme = Some(uri::Scheme::HTTP);
    uri.authority = Some(host.try_into().ok()?);
    // A route may have rewritten it to nothing.
    uri.path_and_query = Some(match head.target() {
        b"" => uri::PathAndQuery::from_static("/"),
        target => target.try_into().ok()?,
    });
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method_text()).ok()?;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    write_fields(head, request.headers_mut(), |known| {
        matches!(known, Known::Host | Known::ContentLength | Known::Expect)
    })?;
    if let Some(length) = length {
        request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    if trailers {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Some(request)
}

/// Fills `head` from a response that came over HTTP/2.
pub(crate) fn read_response<B>(response: &Response<B>, head: &mut Head) -> Result<(), ParseError> {
    head.reset(b"");
    head.version = Version::Http2;
    let status = response.status().as_u16();
    if !(100..=599).contains(&status) {
        return Err(ParseError::Status);
    }
    head.set_status(status, Span::default());
    if response.headers().len() > parse::MAX_FIELDS {
        return Err(ParseError::TooManyFields);
    }
    read_fields(response.headers(), head)
}

/// How the end of a body that follows `head` is known; h2 has checked the declared length and holds the peer to it.
pub(crate) fn body_length(head: &Head, ended: bool) -> BodyLength {
    if ended {
        return BodyLength::Empty;
    }
    head.known(Known::ContentLength)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .map_or(BodyLength::Chunked, BodyLength::Exact)
}

fn read_fields(fields: &HeaderMap, head: &mut Head) -> Result<(), ParseError> {
    for (name, value) in fields {
        let value = value.as_bytes();
        // White space around a value is no part of it in HTTP/1 and malformed in HTTP/2 (RFC 9113 8.2.1).
        if value.trim_ascii().len() != value.len() {
            return Err(ParseError::Malformed);
        }
        head.append(name.as_str().as_bytes(), value);
    }
    Ok(())
}

/// The response for a client that speaks HTTP/2; `None` if the head cannot be said in HTTP/2.
pub(crate) fn write_response(head: &Head, length: Option<u64>) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    write_fields(head, response.headers_mut(), |known| known == Known::ContentLength && length.is_some())?;
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    Some(response)
}

/// Puts all fields that are not removed and that `skip` does not name into `map`; `None` if one cannot be said in HTTP/2.
fn write_fields(head: &Head, map: &mut HeaderMap, skip: impl Fn(Known) -> bool) -> Option<()> {
    for (known, name, value) in head.fields() {
        if skip(known) {
            continue;
        }
        let mut value = HeaderValue::from_bytes(value).ok()?;
        // Each of its values is new: in the dynamic table they would only take the place of what comes again, and h2
        // compares a value with all that are there. "Sensitive" is how h2 is told to leave it out (RFC 7541 6.2.3).
        value.set_sensitive(known == Known::XRequestId);
        map.append(write_name(known, name)?, value);
    }
    Some(())
}

/// The name of a field; looked up only if it is not one that we know.
fn write_name(known: Known, name: &[u8]) -> Option<HeaderName> {
    Some(match known {
        Known::ContentType => header::CONTENT_TYPE,
        Known::Cookie => header::COOKIE,
        Known::Date => header::DATE,
        Known::Server => header::SERVER,
        Known::XForwardedFor => X_FORWARDED_FOR,
        Known::XForwardedProto => X_FORWARDED_PROTO,
        Known::XRequestId => X_REQUEST_ID,
        Known::ServiceTime => SERVICE_TIME,
        _ => HeaderName::from_bytes(name).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_whether_we_know_them_or_not_and_request_ids_stay_out_of_the_table() {
        let mut head = Head::default();
        head.reset(b"");
        let fields = [
            ("Content-Type", "a"),
            ("cookie", "b"),
            ("Date", "c"),
            ("Server", "d"),
            ("X-Forwarded-For", "e"),
            ("x-forwarded-proto", "f"),
            ("X-Request-ID", "g"),
            ("X-Envoy-Upstream-Service-Time", "h"),
            ("X-Other", "i"),
        ];
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        let mut map = HeaderMap::new();
        write_fields(&head, &mut map, |known| known == Known::Date).expect("sayable");
        for (name, value) in fields {
            let found = map.get(name.to_ascii_lowercase()).map(HeaderValue::as_bytes);
            assert_eq!(found, (name != "Date").then_some(value.as_bytes()), "{name}");
        }
        assert!(map["x-request-id"].is_sensitive() && !map["x-other"].is_sensitive());
    }
}
