//! Sending requests to a second place as well.

use crate::{cluster::directory::ClusterRef, runtime::Share, worker::Worker};

/// Where a share of a route's requests goes too.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) cluster: ClusterRef,
    pub(crate) share: Share,
    pub(crate) host: MirrorHost,
}

/// The host that a mirror is asked for.
#[derive(Debug)]
pub(crate) enum MirrorHost {
    Same,
    /// With `-shadow` behind its name.
    Shadow,
    Literal(Vec<u8>),
}

// === impl Mirror ===

impl Mirror {
    pub(crate) fn is_drawn(&self, worker: &Worker) -> bool {
        worker.draws(&self.share)
    }
}

// === impl MirrorHost ===

impl MirrorHost {
    pub(crate) fn of(&self, host: &[u8]) -> Vec<u8> {
        match self {
            Self::Same => host.to_vec(),
            Self::Literal(literal) => literal.clone(),
            Self::Shadow => {
                let colon = memchr::memrchr(b':', host).filter(|_| !host.ends_with(b"]"));
                let (name, port) = host.split_at(colon.unwrap_or(host.len()));
                [name, b"-shadow", port].concat()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_gets_a_suffix_and_the_port_stays() {
        let shadow = |host: &str| String::from_utf8(MirrorHost::Shadow.of(host.as_bytes())).expect("text");
        assert_eq!(shadow("web"), "web-shadow");
        assert_eq!(shadow("web:80"), "web-shadow:80");
        assert_eq!(MirrorHost::Literal(b"x".to_vec()).of(b"web"), b"x");
    }
}
