//! Which filter chain a connection belongs to.

use std::net::{IpAddr, SocketAddr};

/// Conditions of a chain; an empty one always holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ChainMatch {
    pub(crate) destination_port: Option<u16>,
    /// Destination networks.
    pub(crate) prefixes: Vec<(IpAddr, u8)>,
    pub(crate) source_prefixes: Vec<(IpAddr, u8)>,
    pub(crate) source_ports: Vec<u16>,
    pub(crate) transport_protocol: String,
    pub(crate) application_protocols: Vec<String>,
}

/// What is known about a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) destination: SocketAddr,
    pub(crate) source: SocketAddr,
    /// `http/1.0`, `http/1.1` or `h2c`, if something was detected.
    pub(crate) application: Option<&'static str>,
}

/// How well a chain fits, compared in Envoy's order: destination port, destination network, transport protocol,
/// application protocol, source network, source port.
type Score = (bool, u8, bool, bool, u8, bool);

impl ChainMatch {
    /// How specifically the conditions hold, or `None` if they do not.
    pub(crate) fn score(&self, traits: &Traits) -> Option<Score> {
        let port = match self.destination_port {
            Some(port) if port == traits.destination.port() => true,
            Some(_) => return None,
            None => false,
        };
        let destination = longest(&self.prefixes, traits.destination.ip())?;
        let source = longest(&self.source_prefixes, traits.source.ip())?;
        let transport = match self.transport_protocol.as_str() {
            "" => false,
            // No chain here ends TLS, and nothing detects it.
            "raw_buffer" => true,
            _ => return None,
        };
        let application = match (self.application_protocols.is_empty(), traits.application) {
            (true, _) => false,
            (false, Some(protocol)) if self.application_protocols.iter().any(|wanted| wanted == protocol) => {
                true
            }
            (false, _) => return None,
        };
        let source_port = match self.source_ports.as_slice() {
            [] => false,
            ports if ports.contains(&traits.source.port()) => true,
            _ => return None,
        };
        Some((port, destination, transport, application, source, source_port))
    }
}

/// The longest prefix that holds the address, plus one; 0 if there is no condition.
fn longest(prefixes: &[(IpAddr, u8)], address: IpAddr) -> Option<u8> {
    if prefixes.is_empty() {
        return Some(0);
    }
    prefixes
        .iter()
        .filter(|(network, length)| contains(*network, *length, address))
        .map(|(_, length)| length + 1)
        .max()
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(length.min(32));
            network.to_bits().checked_shr(shift).unwrap_or(0)
                == address.to_bits().checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(length.min(128));
            network.to_bits().checked_shr(shift).unwrap_or(0)
                == address.to_bits().checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(application: Option<&'static str>) -> Traits {
        Traits { destination: ([10, 1, 2, 3], 80).into(), source: ([10, 9, 9, 9], 5000).into(), application }
    }

    fn networks(list: &[([u8; 4], u8)]) -> Vec<(IpAddr, u8)> {
        list.iter().map(|(address, length)| (IpAddr::from(*address), *length)).collect()
    }

    #[test]
    fn the_more_specific_chain_scores_higher() {
        let any = ChainMatch::default();
        let port = ChainMatch { destination_port: Some(80), ..ChainMatch::default() };
        let wide = ChainMatch { prefixes: networks(&[([10, 0, 0, 0], 8)]), ..ChainMatch::default() };
        let narrow = ChainMatch { prefixes: networks(&[([10, 1, 2, 0], 24)]), ..ChainMatch::default() };
        let all = ChainMatch { prefixes: networks(&[([0, 0, 0, 0], 0)]), ..ChainMatch::default() };
        let score = |chain: &ChainMatch| chain.score(&traits(None)).expect("fits");
        assert!(score(&port) > score(&narrow));
        assert!(score(&narrow) > score(&wide));
        assert!(score(&wide) > score(&all));
        assert!(score(&all) > score(&any));
    }

    #[test]
    fn a_condition_that_does_not_hold_excludes() {
        let http = ChainMatch {
            application_protocols: vec!["http/1.1".into(), "h2c".into()],
            ..ChainMatch::default()
        };
        assert!(http.score(&traits(None)).is_none());
        assert!(http.score(&traits(Some("h2c"))).is_some());
        let tls = ChainMatch { transport_protocol: "tls".into(), ..ChainMatch::default() };
        assert!(tls.score(&traits(None)).is_none());
        let other = ChainMatch { prefixes: networks(&[([10, 2, 0, 0], 16)]), ..ChainMatch::default() };
        assert!(other.score(&traits(None)).is_none());
    }
}
