//! Writing PROXY protocol headers (the specification of HAProxy, sections 2.1 and 2.2).

use std::net::{IpAddr, SocketAddr};

use super::{Addresses, SIGNATURE, Version};

/// Version 2, connection made on its own behalf: the addresses of the connection itself count.
const LOCAL: u8 = 0x20;
/// Version 2, connection made for somebody else.
const PROXY: u8 = 0x21;

/// The header that says between whom a connection is. Two addresses of different families become IPv6 both, the mapped
/// form of the older one. `None` is a connection for nobody else, such as a health check's.
pub(crate) fn header(version: Version, addresses: Option<Addresses>) -> Vec<u8> {
    match version {
        Version::V1 => line(addresses).into_bytes(),
        Version::V2 => binary(addresses),
    }
}

fn line(addresses: Option<Addresses>) -> String {
    let Some(addresses) = addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let Addresses { source, destination } = addresses.of_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip())
}

fn binary(addresses: Option<Addresses>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some(addresses) = addresses else {
        header.extend([LOCAL, 0, 0, 0]);
        return header;
    };
    let Addresses { source, destination } = addresses.of_one_family();
    let (family, length) = if source.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    header.extend([PROXY, family, 0, length]);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

// === impl Addresses ===

impl Addresses {
    fn of_one_family(self) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        let (source, destination) = (canonical(self.source), canonical(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            Self { source, destination }
        } else {
            Self { source: mapped(source), destination: mapped(destination) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::read::{Parsed, parse};

    fn pair(source: &str, destination: &str) -> Addresses {
        let address = |text: &str| text.parse().expect("an address");
        Addresses { source: address(source), destination: address(destination) }
    }

    #[test]
    fn what_is_written_reads_as_it_was() {
        for addresses in [
            Some(pair("192.0.2.1:51000", "198.51.100.7:443")),
            Some(pair("[2001:db8::1]:1", "[2001:db8::2]:65535")),
            Some(pair("[::ffff:192.0.2.1]:51000", "[2001:db8::2]:80")),
            None,
        ] {
            for version in [Version::V1, Version::V2] {
                let header = header(version, addresses);
                let expected = Parsed::Header { version, length: header.len(), addresses };
                assert_eq!(parse(&header), expected, "{version:?} {addresses:?}");
            }
        }
    }

    #[test]
    fn an_older_address_that_came_in_the_newer_form_is_said_in_the_older() {
        let mapped = pair("[::ffff:192.0.2.1]:51000", "[::ffff:192.0.2.2]:80");
        let line = header(Version::V1, Some(mapped));
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 51000 80\r\n");
    }
}
