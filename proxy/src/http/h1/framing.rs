//! How long a message body is: the rules of RFC 9112 6, with every ambiguity an error.

use crate::http::head::{Head, Known, Method, Version};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is no body.
    Empty,
    /// This many bytes.
    Exact(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// Framing that two readers could understand differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// The classic of request smuggling.
    #[error("both content-length and transfer-encoding")]
    LengthAndCoding,
    #[error("invalid content-length")]
    InvalidLength,
    /// Equal or not: whoever wrote two did not know of the other one.
    #[error("more than one content-length")]
    RepeatedLength,
    #[error("transfer-encoding other than exactly one \"chunked\"")]
    UnknownCoding,
    #[error("transfer-encoding in HTTP/1.0")]
    CodingInHttp10,
    /// RFC 9110 8.6, RFC 9112 6.1: a sender that does this believes in a body that nobody else will see.
    #[error("a body declared where there can be none")]
    ImpossibleBody,
}

/// How the body of a request ends.
pub(crate) fn of_request(head: &Head) -> Result<BodyLength, FramingError> {
    match declared(head)? {
        // What follows belongs to whoever it connects to.
        Some(_) if head.method == Method::Connect => Err(FramingError::ImpossibleBody),
        declared => Ok(declared.unwrap_or(BodyLength::Empty)),
    }
}

/// How the body of a response to a `method` request ends.
pub(crate) fn of_response(head: &Head, method: Method) -> Result<BodyLength, FramingError> {
    let declared = declared(head)?;
    if method == Method::Connect && (200..300).contains(&head.status) {
        // Whatever it declares is to be ignored (RFC 9110 9.3.6): what follows is not HTTP.
        return Ok(BodyLength::Empty);
    }
    if head.status < 200 || head.status == 204 {
        return match declared {
            None | Some(BodyLength::Empty) => Ok(BodyLength::Empty),
            Some(_) => Err(FramingError::ImpossibleBody),
        };
    }
    if method == Method::Head || head.status == 304 {
        return Ok(BodyLength::Empty);
    }
    Ok(declared.unwrap_or(BodyLength::UntilClose))
}

fn declared(head: &Head) -> Result<Option<BodyLength>, FramingError> {
    let mut length = None;
    let mut chunked = false;
    for (known, _, value) in head.fields() {
        match known {
            Known::ContentLength => {
                let repeated = length.replace(parse_length(value)?).is_some();
                if repeated {
                    return Err(FramingError::RepeatedLength);
                }
            }
            Known::TransferEncoding => {
                // A list, a second field or an unknown coding: whoever sits behind us may see another end.
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(FramingError::UnknownCoding);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(FramingError::LengthAndCoding),
        (None, true) if head.version == Version::Http10 => Err(FramingError::CodingInHttp10),
        (None, true) => Ok(Some(BodyLength::Chunked)),
        (Some(0), false) => Ok(Some(BodyLength::Empty)),
        (Some(length), false) => Ok(Some(BodyLength::Exact(length))),
        (None, false) => Ok(None),
    }
}

/// Digits only: no sign, no list, no white space inside, nothing that overflows even where lengths are signed.
fn parse_length(value: &[u8]) -> Result<u64, FramingError> {
    // 19 digits always fit in a u64; no body is longer.
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(FramingError::InvalidLength);
    }
    let length = value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    if i64::try_from(length).is_err() { Err(FramingError::InvalidLength) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, fields: &[(&str, &str)]) -> Result<BodyLength, FramingError> {
        let mut head = Head::default();
        head.reset(b"");
        head.version = version;
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        of_request(&head)
    }

    #[test]
    fn understands_the_proper_forms() {
        assert_eq!(request(Version::Http11, &[]), Ok(BodyLength::Empty));
        assert_eq!(request(Version::Http11, &[("Content-Length", "12")]), Ok(BodyLength::Exact(12)));
        assert_eq!(request(Version::Http11, &[("Transfer-Encoding", "Chunked")]), Ok(BodyLength::Chunked));
    }

    #[test]
    fn refuses_every_ambiguity() {
        use FramingError::*;
        let cases: &[(&[(&str, &str)], FramingError)] = &[
            (&[("content-length", "3"), ("transfer-encoding", "chunked")], LengthAndCoding),
            (&[("content-length", "3"), ("content-length", "4")], RepeatedLength),
            (&[("content-length", "3"), ("content-length", "3")], RepeatedLength),
            (&[("content-length", "9223372036854775808")], InvalidLength),
            (&[("content-length", "3, 3")], InvalidLength),
            (&[("content-length", "+3")], InvalidLength),
            (&[("content-length", "-3")], InvalidLength),
            (&[("content-length", "0x3")], InvalidLength),
            (&[("content-length", "1 0")], InvalidLength),
            (&[("content-length", "")], InvalidLength),
            (&[("content-length", "18446744073709551617")], InvalidLength),
            (&[("transfer-encoding", "xchunked")], UnknownCoding),
            (&[("transfer-encoding", "gzip, chunked")], UnknownCoding),
            (&[("transfer-encoding", "chunked, identity")], UnknownCoding),
            (&[("transfer-encoding", "\"chunked\"")], UnknownCoding),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], UnknownCoding),
            (&[("transfer-encoding", "")], UnknownCoding),
        ];
        for (fields, expected) in cases {
            assert_eq!(request(Version::Http11, fields), Err(*expected), "{fields:?}");
        }
        assert_eq!(request(Version::Http10, &[("transfer-encoding", "chunked")]), Err(CodingInHttp10));
    }

    #[test]
    fn responses_without_body_by_rule_have_none() {
        let impossible = Err(FramingError::ImpossibleBody);
        for (status, method, expected) in [
            // What these declare is the length of the body that a GET would have got.
            (304, Method::Get, Ok(BodyLength::Empty)),
            (200, Method::Head, Ok(BodyLength::Empty)),
            (204, Method::Get, impossible),
            (204, Method::Head, impossible),
            (103, Method::Get, impossible),
        ] {
            let mut head = Head::default();
            head.reset(b"");
            head.status = status;
            head.append(b"content-length", b"10");
            assert_eq!(of_response(&head, method), expected, "{status}");
            head.set(b"content-length", b"0");
            assert_eq!(of_response(&head, method), Ok(BodyLength::Empty), "{status}");
        }
    }
}
