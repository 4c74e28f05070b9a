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
    #[error("content-length fields that differ")]
    LengthsDiffer,
    #[error("transfer-encoding other than exactly one \"chunked\"")]
    UnknownCoding,
    #[error("transfer-encoding in HTTP/1.0")]
    CodingInHttp10,
}

/// How the body of a request ends.
pub(crate) fn of_request(head: &Head) -> Result<BodyLength, FramingError> {
    Ok(declared(head)?.unwrap_or(BodyLength::Empty))
}

/// How the body of a final response to a `method` request ends.
pub(crate) fn of_response(head: &Head, method: Method) -> Result<BodyLength, FramingError> {
    let declared = declared(head)?;
    if method == Method::Head || head.status < 200 || head.status == 204 || head.status == 304 {
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
                let value = parse_length(value)?;
                if length.is_some_and(|before| before != value) {
                    return Err(FramingError::LengthsDiffer);
                }
                length = Some(value);
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

/// Digits only: no sign, no list, no white space inside, nothing that overflows.
fn parse_length(value: &[u8]) -> Result<u64, FramingError> {
    // 19 digits always fit in a u64; no body is longer.
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(FramingError::InvalidLength);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
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
        assert_eq!(
            request(Version::Http11, &[("content-length", "3"), ("content-length", "3")]),
            Ok(BodyLength::Exact(3))
        );
        assert_eq!(request(Version::Http11, &[("Transfer-Encoding", "Chunked")]), Ok(BodyLength::Chunked));
    }

    #[test]
    fn refuses_every_ambiguity() {
        use FramingError::*;
        let cases: &[(&[(&str, &str)], FramingError)] = &[
            (&[("content-length", "3"), ("transfer-encoding", "chunked")], LengthAndCoding),
            (&[("content-length", "3"), ("content-length", "4")], LengthsDiffer),
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
    fn responses_without_body_by_rule_have_none_whatever_they_declare() {
        for (status, method) in
            [(204, Method::Get), (304, Method::Get), (200, Method::Head), (103, Method::Get)]
        {
            let mut head = Head::default();
            head.reset(b"");
            head.status = status;
            head.append(b"content-length", b"10");
            assert_eq!(of_response(&head, method), Ok(BodyLength::Empty));
        }
    }
}
