//! Reading a PROXY protocol header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, SIGNATURE, Version};

/// The longest header of version 1, with its line end.
const MAX_LINE: usize = 107;
/// What a header of version 2 has before its addresses.
const FIXED: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Too early to say. Never for more than [`MAX_LINE`] bytes.
    Incomplete,
    /// Something else than a header.
    Absent,
    Header {
        version: Version,
        /// Bytes of the header; can be more than were given, since what follows the addresses does not matter.
        length: usize,
        /// `None` if the sender speaks for itself or does not know: the addresses of the connection hold.
        addresses: Option<Addresses>,
    },
    /// Begins as a header of this version and cannot be one.
    Malformed(Version),
}

/// Judges the first bytes of a connection.
pub(crate) fn parse(data: &[u8]) -> Parsed {
    let starts = |with: &[u8]| {
        let common = data.len().min(with.len());
        data[..common] == with[..common]
    };
    if starts(SIGNATURE) {
        return if data.len() < FIXED { Parsed::Incomplete } else { binary(data) };
    }
    if starts(b"PROXY ") {
        return line(data);
    }
    Parsed::Absent
}

fn line(data: &[u8]) -> Parsed {
    let head = &data[..data.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr(b'\n', head) else {
        return if data.len() < MAX_LINE { Parsed::Incomplete } else { Parsed::Malformed(Version::V1) };
    };
    let text = head[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    match text.and_then(fields) {
        Some(addresses) => Parsed::Header { version: Version::V1, length: end + 1, addresses },
        None => Parsed::Malformed(Version::V1),
    }
}

/// The addresses of a line, if it is one.
fn fields(line: &str) -> Option<Option<Addresses>> {
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // The rest of the line has no meaning.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?.into(), destination.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (source.parse::<Ipv6Addr>().ok()?.into(), destination.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Some(Addresses {
        source: (source, source_port).into(),
        destination: (destination, destination_port).into(),
    }))
}

/// A decimal number without sign or leading zeros: two readers must not see two numbers.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// `data` has at least the fixed part.
fn binary(data: &[u8]) -> Parsed {
    let malformed = Parsed::Malformed(Version::V2);
    let length = usize::from(u16::from_be_bytes([data[14], data[15]]));
    let header = |addresses| Parsed::Header { version: Version::V2, length: FIXED + length, addresses };
    let (version, command) = (data[12] >> 4, data[12] & 15);
    let (family, transport) = (data[13] >> 4, data[13] & 15);
    match (version, command, family, transport) {
        // LOCAL: whatever addresses there are do not count.
        (2, 0, _, _) => header(None),
        (2, 1, 0, 0) => header(None),
        (2, 1, 1, 1) if length >= 12 => match data.get(FIXED..FIXED + 12) {
            Some(block) => header(Some(pair::<4>(block))),
            None => Parsed::Incomplete,
        },
        (2, 1, 2, 1) if length >= 36 => match data.get(FIXED..FIXED + 36) {
            Some(block) => header(Some(pair::<16>(block))),
            None => Parsed::Incomplete,
        },
        // Datagrams and local sockets cannot come in over TCP.
        _ => malformed,
    }
}

/// Two addresses of `N` bytes and their ports.
fn pair<const N: usize>(block: &[u8]) -> Addresses
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize, port: usize| {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&block[at..at + N]);
        SocketAddr::new(IpAddr::from(bytes), u16::from_be_bytes([block[port], block[port + 1]]))
    };
    Addresses { source: address(0, 2 * N), destination: address(N, 2 * N + 2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary_header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend((block.len() as u16).to_be_bytes());
        header.extend(block);
        header
    }

    #[test]
    fn a_line_gives_the_addresses() {
        let text = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET /";
        let addresses = Addresses {
            source: ([192, 0, 2, 1], 56324).into(),
            destination: ([198, 51, 100, 7], 443).into(),
        };
        let expected = Parsed::Header { version: Version::V1, length: 45, addresses: Some(addresses) };
        assert_eq!(parse(text), expected);
        for end in 0..45 {
            assert_eq!(parse(&text[..end]), Parsed::Incomplete, "{end}");
        }
    }

    #[test]
    fn a_line_is_taken_by_the_letter() {
        for text in [
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\r\n",
            "PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Malformed(Version::V1), "{text:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(endless.as_bytes()), Parsed::Malformed(Version::V1));
        assert_eq!(parse(&endless.as_bytes()[..106]), Parsed::Incomplete);
        let unknown = Parsed::Header { version: Version::V1, length: 24, addresses: None };
        assert_eq!(parse(b"PROXY UNKNOWN ffff:x y\r\n"), unknown);
    }

    #[test]
    fn a_binary_header_gives_the_addresses_and_its_tags_are_passed_over() {
        let mut block = vec![10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80];
        block.extend([4, 0, 3, 1, 2, 3]);
        let header = binary_header(1, 0x11, &block);
        let addresses =
            Addresses { source: ([10, 0, 0, 1], 8080).into(), destination: ([10, 0, 0, 2], 80).into() };
        let expected = Parsed::Header { version: Version::V2, length: 34, addresses: Some(addresses) };
        assert_eq!(parse(&header), expected);
        for end in 0..header.len() {
            let wanted = if end < 28 { Parsed::Incomplete } else { expected };
            assert_eq!(parse(&header[..end]), wanted, "{end}");
        }
        let mut block = [0; 36];
        (block[15], block[31], block[33], block[35]) = (1, 2, 3, 4);
        let Parsed::Header { addresses: Some(addresses), .. } = parse(&binary_header(1, 0x21, &block)) else {
            panic!("not a header");
        };
        assert_eq!(addresses.source, "[::1]:3".parse().expect("an address"));
        assert_eq!(addresses.destination, "[::2]:4".parse().expect("an address"));
    }

    #[test]
    fn only_what_can_come_over_tcp_is_taken() {
        let local = Parsed::Header { version: Version::V2, length: 18, addresses: None };
        assert_eq!(parse(&binary_header(0, 0, &[1, 2])), local);
        assert_eq!(parse(&binary_header(1, 0, &[1, 2])), local);
        for (command, family, length) in
            [(2, 0x11, 12), (1, 0x11, 11), (1, 0x21, 35), (1, 0x12, 12), (1, 0x31, 216), (1, 0x13, 12)]
        {
            let header = binary_header(command, family, &vec![0; length]);
            assert_eq!(parse(&header), Parsed::Malformed(Version::V2), "{command} {family:#x} {length}");
        }
        let mut old = binary_header(1, 0x11, &[0; 12]);
        old[12] = 0x11;
        assert_eq!(parse(&old), Parsed::Malformed(Version::V2));
    }

    #[test]
    fn anything_else_is_known_at_its_first_odd_byte() {
        for text in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0", "PROXYX", "\r\n\r\nx", "\u{16}\u{3}\u{1}", "x"] {
            assert_eq!(parse(text.as_bytes()), Parsed::Absent, "{text:?}");
        }
        for text in ["", "P", "PROXY", "\r\n\r\n"] {
            assert_eq!(parse(text.as_bytes()), Parsed::Incomplete, "{text:?}");
        }
    }
}
