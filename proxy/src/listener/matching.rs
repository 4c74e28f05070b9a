//! Which filter chain a connection belongs to.
//!
//! As in Envoy the conditions are looked at one kind after the other, from the destination's port to the source's port.
//! Of each kind the most specific one that holds wins for good: chains that lost are not come back to when a later
//! condition of the winner does not hold.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

/// Conditions of a chain; an empty one always holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ChainMatch {
    pub(crate) destination_port: Option<u16>,
    /// Destination networks.
    pub(crate) prefixes: Vec<(IpAddr, u8)>,
    /// In lower case; `*.` at the beginning stands for one or more labels.
    pub(crate) server_names: Vec<String>,
    pub(crate) transport: Option<Transport>,
    pub(crate) application_protocols: Vec<String>,
    /// Networks of whoever is directly connected.
    pub(crate) direct_source_prefixes: Vec<(IpAddr, u8)>,
    pub(crate) source_type: SourceType,
    pub(crate) source_prefixes: Vec<(IpAddr, u8)>,
    pub(crate) source_ports: Vec<u16>,
}

/// What carries the bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    #[default]
    Raw,
    Tls,
}

/// Where a connection comes from, seen from this host.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

/// What is known about a connection.
#[derive(Debug, Clone)]
pub(crate) struct Traits {
    /// Where the client wanted to go.
    pub(crate) destination: SocketAddr,
    /// Who the client is.
    pub(crate) source: SocketAddr,
    /// Who is connected: the client, or a proxy that spoke for it.
    pub(crate) direct_source: SocketAddr,
    pub(crate) transport: Transport,
    /// In lower case.
    pub(crate) server_name: Option<String>,
    /// What was detected (`http/1.0`, `http/1.1`, `h2c`) or offered in a ClientHello, the preferred first.
    pub(crate) applications: Vec<Cow<'static, str>>,
}

/// How specifically one condition holds, 0 if there is none; `None` if it does not hold.
type Score = Option<usize>;

/// The kinds of conditions, in order.
const CONDITIONS: [fn(&ChainMatch, &Traits) -> Score; 9] = [
    |chain, traits| match chain.destination_port {
        None => Some(0),
        Some(port) => (port == traits.destination.port()).then_some(1),
    },
    |chain, traits| longest(&chain.prefixes, traits.destination.ip()),
    server_name,
    |chain, traits| match chain.transport {
        None => Some(0),
        Some(transport) => (transport == traits.transport).then_some(1),
    },
    application,
    |chain, traits| longest(&chain.direct_source_prefixes, traits.direct_source.ip()),
    source_type,
    |chain, traits| longest(&chain.source_prefixes, traits.source.ip()),
    |chain, traits| match chain.source_ports.as_slice() {
        [] => Some(0),
        ports => ports.contains(&traits.source.port()).then_some(1),
    },
];

/// The chain for a connection.
pub(crate) fn choose<'c, T>(
    chains: &'c [T],
    matches: impl Fn(&T) -> &ChainMatch,
    traits: &Traits,
) -> Option<&'c T> {
    let mut left: Vec<&T> = chains.iter().collect();
    for condition in CONDITIONS {
        if let [only] = left.as_slice() {
            condition(matches(only), traits)?;
            continue;
        }
        let scores: Vec<Score> = left.iter().map(|chain| condition(matches(chain), traits)).collect();
        let best = scores.iter().max().copied().flatten()?;
        let mut scores = scores.into_iter();
        left.retain(|_| scores.next() == Some(Some(best)));
    }
    left.first().copied()
}

impl ChainMatch {
    /// Whether a ClientHello must be looked for, by Envoy's rule.
    pub(crate) fn needs_hello(&self) -> bool {
        let asks = !self.server_names.is_empty() || !self.application_protocols.is_empty();
        self.transport == Some(Transport::Tls) || (self.transport.is_none() && asks)
    }
}

fn server_name(chain: &ChainMatch, traits: &Traits) -> Score {
    if chain.server_names.is_empty() {
        return Some(0);
    }
    let asked = traits.server_name.as_deref()?;
    chain
        .server_names
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            None => (pattern == asked).then_some(usize::MAX),
            Some(suffix) => (asked.len() > suffix.len() && asked.ends_with(suffix)).then_some(suffix.len()),
        })
        .max()
}

fn application(chain: &ChainMatch, traits: &Traits) -> Score {
    if chain.application_protocols.is_empty() {
        return Some(0);
    }
    // The client's preference decides, not ours.
    let first = traits
        .applications
        .iter()
        .position(|name| chain.application_protocols.iter().any(|wanted| wanted == name))?;
    Some(traits.applications.len() - first)
}

fn source_type(chain: &ChainMatch, traits: &Traits) -> Score {
    let is_local = || {
        let source = traits.source.ip().to_canonical();
        source.is_loopback() || source == traits.destination.ip().to_canonical()
    };
    match chain.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => is_local().then_some(1),
        SourceType::External => (!is_local()).then_some(1),
    }
}

/// The longest prefix that holds the address, plus one; 0 if there is no condition.
fn longest(prefixes: &[(IpAddr, u8)], address: IpAddr) -> Score {
    if prefixes.is_empty() {
        return Some(0);
    }
    prefixes
        .iter()
        .filter(|(network, length)| contains(*network, *length, address))
        .map(|(_, length)| usize::from(*length) + 1)
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

    fn traits() -> Traits {
        Traits {
            destination: ([10, 1, 2, 3], 80).into(),
            source: ([10, 9, 9, 9], 5000).into(),
            direct_source: ([10, 8, 8, 8], 6000).into(),
            transport: Transport::Raw,
            server_name: None,
            applications: Vec::new(),
        }
    }

    fn over_tls(name: &str, applications: &[&'static str]) -> Traits {
        Traits {
            transport: Transport::Tls,
            server_name: Some(name.to_owned()),
            applications: applications.iter().map(|name| Cow::Borrowed(*name)).collect(),
            ..traits()
        }
    }

    fn networks(list: &[([u8; 4], u8)]) -> Vec<(IpAddr, u8)> {
        list.iter().map(|(address, length)| (IpAddr::from(*address), *length)).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn chosen(chains: &[ChainMatch], traits: &Traits) -> Option<usize> {
        let chains: Vec<_> = chains.iter().enumerate().collect();
        choose(&chains, |(_, matches)| matches, traits).map(|(index, _)| *index)
    }

    #[test]
    fn the_more_specific_chain_wins() {
        let any = ChainMatch::default();
        let port = ChainMatch { destination_port: Some(80), ..ChainMatch::default() };
        let wide = ChainMatch { prefixes: networks(&[([10, 0, 0, 0], 8)]), ..ChainMatch::default() };
        let narrow = ChainMatch { prefixes: networks(&[([10, 1, 2, 0], 24)]), ..ChainMatch::default() };
        let all = ChainMatch { prefixes: networks(&[([0, 0, 0, 0], 0)]), ..ChainMatch::default() };
        let chains = [any, all, wide, narrow, port];
        for count in (1..=chains.len()).rev() {
            assert_eq!(chosen(&chains[..count], &traits()), Some(count - 1));
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_excludes() {
        let clear = ChainMatch {
            application_protocols: names(&["http/1.1", "h2c"]),
            transport: Some(Transport::Raw),
            ..ChainMatch::default()
        };
        assert_eq!(chosen(std::slice::from_ref(&clear), &traits()), None);
        let detected = Traits { applications: vec!["h2c".into()], ..traits() };
        assert_eq!(chosen(std::slice::from_ref(&clear), &detected), Some(0));
        assert_eq!(chosen(&[clear], &over_tls("a", &["h2c"])), None);
        let other = ChainMatch { prefixes: networks(&[([10, 2, 0, 0], 16)]), ..ChainMatch::default() };
        assert_eq!(chosen(&[other], &traits()), None);
    }

    #[test]
    fn a_chain_that_lost_is_not_come_back_to() {
        let port = ChainMatch {
            destination_port: Some(80),
            application_protocols: names(&["h2c"]),
            ..ChainMatch::default()
        };
        assert_eq!(chosen(&[ChainMatch::default(), port], &traits()), None);
    }

    #[test]
    fn names_match_exactly_before_by_their_end_before_not_at_all() {
        let named = |list: &[&str]| ChainMatch { server_names: names(list), ..ChainMatch::default() };
        let chains = [
            ChainMatch::default(),
            named(&["*.com"]),
            named(&["*.example.com", "*.example.org"]),
            named(&["api.example.com"]),
        ];
        for (name, expected) in [
            ("api.example.com", 3),
            ("web.example.com", 2),
            ("a.b.example.com", 2),
            ("x.example.org", 2),
            ("example.com", 1),
            ("wexample.com", 1),
            ("com", 0),
            ("example.net", 0),
        ] {
            assert_eq!(chosen(&chains, &over_tls(name, &[])), Some(expected), "{name}");
        }
        assert_eq!(chosen(&chains, &traits()), Some(0));
        assert_eq!(chosen(&chains[1..], &traits()), None);
    }

    #[test]
    fn the_clients_order_of_protocols_decides() {
        let speaks =
            |list: &[&str]| ChainMatch { application_protocols: names(list), ..ChainMatch::default() };
        let chains = [speaks(&["http/1.1"]), speaks(&["h2"]), ChainMatch::default()];
        assert_eq!(chosen(&chains, &over_tls("a", &["h2", "http/1.1"])), Some(1));
        assert_eq!(chosen(&chains, &over_tls("a", &["x", "http/1.1", "h2"])), Some(0));
        assert_eq!(chosen(&chains, &over_tls("a", &["x"])), Some(2));
    }

    #[test]
    fn the_source_counts_as_who_it_is_and_as_who_is_connected() {
        let direct =
            ChainMatch { direct_source_prefixes: networks(&[([10, 8, 0, 0], 16)]), ..ChainMatch::default() };
        let spoken_for =
            ChainMatch { source_prefixes: networks(&[([10, 8, 0, 0], 16)]), ..ChainMatch::default() };
        assert_eq!(chosen(&[spoken_for], &traits()), None);
        assert_eq!(chosen(&[direct], &traits()), Some(0));
        let local = ChainMatch { source_type: SourceType::SameIpOrLoopback, ..ChainMatch::default() };
        let external = ChainMatch { source_type: SourceType::External, ..ChainMatch::default() };
        let chains = [ChainMatch::default(), local, external];
        assert_eq!(chosen(&chains, &traits()), Some(2));
        let loopback = Traits { source: ([127, 0, 0, 9], 1).into(), ..traits() };
        assert_eq!(chosen(&chains, &loopback), Some(1));
        let same = Traits { source: ([10, 1, 2, 3], 1).into(), ..traits() };
        assert_eq!(chosen(&chains, &same), Some(1));
        let ports = ChainMatch { source_ports: vec![5000], ..ChainMatch::default() };
        assert_eq!(chosen(&[ChainMatch::default(), ports], &traits()), Some(1));
    }
}
