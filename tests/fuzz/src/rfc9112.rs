//! HTTP/1 as RFC 9112 has it, read in the most naive and strict way: what is not entirely clear is no message.
//!
//! Limits are not known here; the inputs of a fuzzer are too small to reach any.

/// Which message is expected.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A request.
    Request,
    /// A response, to a HEAD request or to another one.
    Response {
        /// Whether it answers HEAD.
        to_head: bool,
    },
}

/// Name and value.
pub type Field = (Vec<u8>, Vec<u8>);

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Method or version.
    pub first: Vec<u8>,
    /// Target or status.
    pub second: Vec<u8>,
    /// The fields as they came.
    pub fields: Vec<Field>,
    /// The payload.
    pub body: Vec<u8>,
    /// The fields after the payload.
    pub trailers: Vec<Field>,
    /// The bytes that all this took.
    pub consumed: usize,
}

/// Reads the message at the start of `input`; `None` if there is none that is complete and clear.
pub fn read(input: &[u8], kind: Kind) -> Option<Message> {
    // An empty line before a request is to be ignored (RFC 9112 2.2).
    let skipped = usize::from(matches!(kind, Kind::Request) && input.starts_with(b"\r\n")) * 2;
    let mut rest = &input[skipped..];
    let start = line(&mut rest)?;
    let (first, second, http10) = match kind {
        Kind::Request => request_line(start)?,
        Kind::Response { .. } => status_line(start)?,
    };
    let fields = fields(&mut rest)?;
    let (body, trailers) = match framing(kind, &second, http10, &fields)? {
        Framing::None => Default::default(),
        Framing::Length(length) => {
            let (body, after) = rest.split_at_checked(length)?;
            rest = after;
            (body.to_vec(), Vec::new())
        }
        Framing::Close => (std::mem::take(&mut rest).to_vec(), Vec::new()),
        Framing::Chunked => {
            let (body, trailers, after) = chunked(rest)?;
            rest = after;
            (body, trailers)
        }
    };
    Some(Message { first, second, fields, body, trailers, consumed: input.len() - rest.len() })
}

/// Reads a chunked body: payload, trailers and what follows.
pub fn chunked(mut rest: &[u8]) -> Option<(Vec<u8>, Vec<Field>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut rest)?;
        let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        // Not `trim_ascii_start`, for which a form feed is a blank: here it is a byte that must not be.
        let blanks = line[end..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let (digits, extension) = (std::str::from_utf8(&line[..end]).ok()?, &line[end + blanks..]);
        if digits.is_empty() || digits.len() > 15 || !extension.iter().all(|byte| is_text(*byte)) {
            return None;
        }
        // Blanks only before a semicolon.
        if end != line.len() && !extension.starts_with(b";") {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            let trailers = fields(&mut rest)?;
            return Some((body, trailers, rest));
        }
        let (data, after) = rest.split_at_checked(size)?;
        body.extend_from_slice(data);
        rest = after.strip_prefix(b"\r\n")?;
    }
}

/// The fields that are not about one hop only: neither fixed ones nor those that `Connection` names. (That a message names
/// `Host` or its framing there changes nothing.)
pub fn end_to_end(fields: &[Field]) -> Vec<Field> {
    let hop = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"];
    // Only space and tab are blanks (RFC 9110 5.6.3): a byte that is one in Unicode, such as 0xa0, is part of a name.
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| lower(name) == "connection")
        .flat_map(|(_, value)| {
            lower(value).split(',').map(|name| name.trim_matches([' ', '\t']).to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let stays = |(name, _): &&Field| {
        let name = lower(name);
        name == "host"
            || name == "content-length"
            || !(hop.contains(&&*name) || name == "http2-settings" || named.contains(&name))
    };
    fields.iter().filter(stays).cloned().collect()
}

/// Text in lower case; what is no text stays apart from all text.
pub fn lower(text: &[u8]) -> String {
    text.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

fn framing(kind: Kind, second: &[u8], http10: bool, fields: &[Field]) -> Option<Framing> {
    let all = |wanted| fields.iter().filter(move |(name, _)| lower(name) == wanted).map(|(_, value)| value);
    let lengths: Vec<&Vec<u8>> = all("content-length").collect();
    let codings: Vec<&Vec<u8>> = all("transfer-encoding").collect();
    let declared = match (&lengths[..], &codings[..]) {
        ([], []) => None,
        ([], [coding]) if lower(coding) == "chunked" && !http10 => Some(Framing::Chunked),
        ([first, others @ ..], []) => {
            let length = number(first)?;
            for other in others {
                if number(other)? != length {
                    return None;
                }
            }
            Some(Framing::Length(usize::try_from(length).ok()?))
        }
        _ => return None,
    };
    match kind {
        Kind::Request => Some(declared.unwrap_or(Framing::None)),
        Kind::Response { to_head } => {
            let bodiless = to_head || second.starts_with(b"1") || second == b"204" || second == b"304";
            Some(if bodiless { Framing::None } else { declared.unwrap_or(Framing::Close) })
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    (!digits.is_empty() && digits.len() < 20 && digits.bytes().all(|digit| digit.is_ascii_digit()))
        .then_some(())?;
    digits.parse().ok()
}

fn request_line(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>, bool)> {
    let [method, target, version] = line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let visible = |byte: &u8| matches!(byte, 0x21..=0x7e) && *byte != b'#';
    if !is_token(method) || target.is_empty() || !target.iter().all(visible) {
        return None;
    }
    Some((method.to_vec(), target.to_vec(), http10(version)?))
}

fn status_line(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>, bool)> {
    let (version, rest) = line.split_at_checked(8)?;
    let (status, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let known = matches!(status[0], b'1'..=b'5') && status.iter().all(u8::is_ascii_digit);
    // The space before a reason that is empty is often forgotten, without harm.
    let separated = reason.is_empty() || reason[0] == b' ';
    if !known || !separated || !reason.iter().all(|byte| is_text(*byte)) {
        return None;
    }
    Some((version.to_vec(), status.to_vec(), http10(version)?))
}

fn http10(version: &[u8]) -> Option<bool> {
    match version {
        b"HTTP/1.0" => Some(true),
        b"HTTP/1.1" => Some(false),
        _ => None,
    }
}

/// Reads field lines and the empty line after them.
fn fields(rest: &mut &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Some(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) || !value.iter().all(|byte| is_text(*byte)) {
            return None;
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        fields.push((name.to_vec(), value[start..end].to_vec()));
    }
}

/// Reads a line that ends with CRLF and has neither CR nor LF in it.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    (!line.iter().any(|byte| matches!(byte, b'\r' | b'\n'))).then_some(line)
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
