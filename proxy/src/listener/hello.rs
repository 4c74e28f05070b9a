//! What a ClientHello says about where a connection wants to go, without answering it.
//!
//! # Guarantees
//! * Bytes are only looked at: whoever terminates TLS gets every one of them.
//! * The work for a byte does not depend on how the bytes came: records that are complete are not looked at again.
//! * A message that is longer than the limit is known as such from its length, before it is there.

/// The largest record that TLS allows to be sent in the clear.
const MAX_RECORD: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Looks for a ClientHello at the beginning of a connection.
#[derive(Debug)]
pub(crate) struct Inspector {
    limit: usize,
    /// Where the first record begins that was not complete yet.
    at: usize,
    /// What the records before that carried.
    message: Vec<u8>,
}

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Too early to say.
    Unclear,
    /// No ClientHello, or none that is well formed.
    NotTls,
    TooLarge,
    Hello(Hello),
}

/// What a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// In lower case.
    pub(crate) server_name: Option<String>,
    /// In the client's order of preference.
    pub(crate) application_protocols: Vec<String>,
}

/// Bytes that are yet to be read.
struct Bytes<'b>(&'b [u8]);

// === impl Inspector ===

impl Inspector {
    /// Takes at most `limit` bytes for a ClientHello.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, at: 0, message: Vec::new() }
    }

    /// Judges a connection's first bytes: all that came so far, from the very first.
    pub(crate) fn look(&mut self, data: &[u8]) -> Verdict {
        loop {
            let rest = data.get(self.at..).unwrap_or_default();
            let begins = |at: usize, wanted: u8| rest.get(at).is_none_or(|byte| *byte == wanted);
            if !begins(0, HANDSHAKE) || !begins(1, 3) {
                return Verdict::NotTls;
            }
            let Some((header, payload)) = rest.split_at_checked(RECORD_HEADER) else {
                return self.wait(data);
            };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length == 0 || length > MAX_RECORD {
                return Verdict::NotTls;
            }
            let whole = payload.len() >= length;
            let payload = &payload[..length.min(payload.len())];
            match announced(&self.message, payload) {
                Announced::Later => {}
                Announced::Other => return Verdict::NotTls,
                Announced::Length(length) if MESSAGE_HEADER + length > self.limit => {
                    return Verdict::TooLarge;
                }
                Announced::Length(length) if whole => {
                    let end = MESSAGE_HEADER + length;
                    let missing = end.saturating_sub(self.message.len());
                    if payload.len() >= missing {
                        self.message.extend_from_slice(&payload[..missing]);
                        let body = self.message.get(MESSAGE_HEADER..end).unwrap_or_default();
                        return hello(body).map_or(Verdict::NotTls, Verdict::Hello);
                    }
                }
                Announced::Length(_) => {}
            }
            if !whole {
                return self.wait(data);
            }
            self.message.extend_from_slice(payload);
            self.at += RECORD_HEADER + length;
        }
    }

    /// Waits for more, unless there is too much already.
    fn wait(&self, data: &[u8]) -> Verdict {
        if data.len() >= self.limit { Verdict::TooLarge } else { Verdict::Unclear }
    }
}

/// What the header of the first handshake message says.
enum Announced {
    /// It is not there yet.
    Later,
    /// It is not a ClientHello.
    Other,
    /// How long the ClientHello is.
    Length(usize),
}

fn announced(before: &[u8], payload: &[u8]) -> Announced {
    let mut bytes = before.iter().chain(payload).take(MESSAGE_HEADER).copied();
    if bytes.next().is_some_and(|kind| kind != CLIENT_HELLO) {
        return Announced::Other;
    }
    match (bytes.next(), bytes.next(), bytes.next()) {
        (Some(high), Some(middle), Some(low)) => {
            Announced::Length(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
        }
        _ => Announced::Later,
    }
}

/// Reads the body of a ClientHello; `None` if it is malformed where it matters.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Bytes(body);
    let _version_and_random = body.take(2 + 32)?;
    let _session = body.short()?;
    let _ciphers = body.long()?;
    let _compression = body.short()?;
    let mut hello = Hello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.long()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.number()?, extensions.long()?);
        match kind {
            // Which of two would count is not for us to guess.
            SERVER_NAME if std::mem::replace(&mut named, true) => return None,
            ALPN if std::mem::replace(&mut offered, true) => return None,
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            ALPN => hello.application_protocols = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut content: Bytes<'_>) -> Option<String> {
    let mut names = content.long()?;
    let (kind, name) = (names.byte()?, names.long()?.0);
    let plain = !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
    if !plain || kind != 0 || !names.0.is_empty() || !content.0.is_empty() {
        return None;
    }
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

fn protocols(mut content: Bytes<'_>) -> Option<Vec<String>> {
    let mut list = content.long()?;
    if list.0.is_empty() || !content.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.short()?.0;
        if name.is_empty() {
            return None;
        }
        // A name that is no text is none that a configuration could ask for.
        protocols.extend(String::from_utf8(name.to_vec()));
    }
    Some(protocols)
}

// === impl Bytes ===

impl<'b> Bytes<'b> {
    fn take(&mut self, count: usize) -> Option<Bytes<'b>> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(Bytes(taken))
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken.0[0])
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|taken| u16::from_be_bytes([taken.0[0], taken.0[1]]))
    }

    /// What follows a length of one byte.
    fn short(&mut self) -> Option<Bytes<'b>> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    /// What follows a length of two bytes.
    fn long(&mut self) -> Option<Bytes<'b>> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes(), content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().as_slice(), &long(content)].concat()
    }

    fn name(host: &[u8]) -> Vec<u8> {
        extension(SERVER_NAME, &long(&[&[0][..], &long(host)].concat()))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(long(&extensions.concat()));
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &long(part)].concat()).collect()
    }

    fn judge(data: &[u8]) -> Verdict {
        Inspector::new(MAX_RECORD).look(data)
    }

    fn usual() -> Vec<u8> {
        let alpn = extension(ALPN, &long(b"\x02h2\x08http/1.1\x02\xff\xfe"));
        message(&[extension(43, &[2, 3, 4]), name(b"Api.Example.COM"), alpn])
    }

    fn expected() -> Verdict {
        Verdict::Hello(Hello {
            server_name: Some("api.example.com".to_owned()),
            application_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        })
    }

    #[test]
    fn a_hello_is_read_however_it_is_cut() {
        for size in [1, 2, 3, 5, 64, 4096] {
            let data = records(&usual(), size);
            assert_eq!(judge(&data), expected(), "records of {size}");
            let mut inspector = Inspector::new(MAX_RECORD);
            for end in 0..data.len() {
                assert_eq!(inspector.look(&data[..end]), Verdict::Unclear, "records of {size}, {end} bytes");
            }
            assert_eq!(inspector.look(&data), expected(), "records of {size}, byte by byte");
        }
    }

    #[test]
    fn what_follows_a_hello_is_left_alone() {
        let data = [records(&usual(), 4096), b"\x14\x03\x03\x00\x01\x01".to_vec()].concat();
        assert_eq!(judge(&data), expected());
    }

    #[test]
    fn a_hello_without_wishes_is_one() {
        assert_eq!(judge(&records(&message(&[]), 4096)), Verdict::Hello(Hello::default()));
        let mut old = vec![3, 1];
        old.extend([7; 32]);
        old.extend([0, 0, 2, 0, 47, 1, 0]);
        let old = [&[CLIENT_HELLO, 0, 0, old.len() as u8][..], &old].concat();
        assert_eq!(judge(&records(&old, 4096)), Verdict::Hello(Hello::default()));
    }

    #[test]
    fn too_much_is_known_early() {
        let huge = [CLIENT_HELLO, 0, 0x40, 0];
        assert_eq!(judge(&[&[HANDSHAKE, 3, 1, 0x40, 0][..], &huge].concat()), Verdict::TooLarge);
        // One byte to a record: the message is short, what carries it is not.
        let padded = message(&[extension(21, &vec![0; 8000])]);
        assert_eq!(judge(&records(&padded, 1)[..MAX_RECORD]), Verdict::TooLarge);
        assert!(matches!(judge(&records(&padded, 4096)), Verdict::Hello(_)));
    }

    #[test]
    fn anything_else_is_not_a_hello() {
        for data in ["GET / HTTP/1.1\r\n", "\u{16}\u{2}", "\u{15}\u{3}\u{1}", "\u{16}\u{3}\u{1}\0\0"] {
            assert_eq!(judge(data.as_bytes()), Verdict::NotTls, "{data:?}");
        }
        assert_eq!(judge(&[HANDSHAKE, 3, 1, 0x40, 1]), Verdict::NotTls);
        assert_eq!(judge(&[HANDSHAKE, 3, 3, 0, 1, 2]), Verdict::NotTls);
        for extensions in [
            vec![name(b"a"), name(b"b")],
            vec![name(b"")],
            vec![name(b"a\0.example.com")],
            vec![name("\u{e4}.example.com".as_bytes())],
            vec![name(&[b'a'; 256])],
            vec![extension(SERVER_NAME, &long(&[1, 0, 1, b'a']))],
            vec![extension(SERVER_NAME, &[])],
            vec![extension(ALPN, &long(b""))],
            vec![extension(ALPN, &long(b"\x00"))],
            vec![extension(ALPN, &long(b"\x09h2"))],
            vec![vec![0, 1, 0, 9]],
        ] {
            assert_eq!(judge(&records(&message(&extensions), 4096)), Verdict::NotTls, "{extensions:?}");
        }
        let mut trailing = usual();
        trailing[3] += 1;
        trailing.push(0);
        assert_eq!(judge(&records(&trailing, 4096)), Verdict::NotTls);
    }
}
