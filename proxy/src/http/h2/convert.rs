//! Heads between hyper's types and ours.

use http::{HeaderName, HeaderValue, Request, Response, Uri, request::Parts};

use crate::http::{
    h1::parse::{self, ParseError, is_authority},
    head::{Head, Known, Method, Version},
};

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
    for (name, value) in &parts.headers {
        head.append(name.as_str().as_bytes(), value.as_bytes());
    }
    // `:authority` wins over `host` (RFC 9113 8.3.1); without it exactly one host must be there.
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str().as_bytes().to_vec(),
        None => {
            let mut hosts = head.all_known(Known::Host);
            match (hosts.next(), hosts.next()) {
                (Some(host), None) => host.to_vec(),
                _ => return Err(ParseError::Host),
            }
        }
    };
    if !is_authority(&authority) {
        return Err(ParseError::Host);
    }
    let authority = head.intern(&authority);
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
    let uri = Uri::builder().scheme("http").authority(host).path_and_query(head.target()).build().ok()?;
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method_text()).ok()?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    for (known, name, value) in head.fields() {
        if matches!(known, Known::Host | Known::ContentLength | Known::Expect) {
            continue;
        }
        request
            .headers_mut()
            .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    if let Some(length) = length {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    if trailers {
        request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));
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
    let reason = head.intern(b"");
    head.set_status(status, reason);
    if response.headers().len() > parse::MAX_FIELDS {
        return Err(ParseError::TooManyFields);
    }
    for (name, value) in response.headers() {
        head.append(name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(())
}

/// The response for a client that speaks HTTP/2; `None` if the head cannot be said in HTTP/2.
pub(crate) fn write_response(head: &Head, length: Option<u64>) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    for (known, name, value) in head.fields() {
        if known == Known::ContentLength && length.is_some() {
            continue;
        }
        response
            .headers_mut()
            .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    Some(response)
}
