//! The filter that takes a client's address from a PROXY protocol header.

use std::sync::Arc;

use super::filter::{Facts, Look, Stop};
use crate::{
    metrics::{PerWorker, ProxyProtocolCells},
    proxy_protocol::{
        Addresses, Version,
        read::{Parsed, parse},
    },
};

/// The filter's settings.
#[derive(Debug)]
pub(crate) struct ProxyProtocol {
    /// Take connections without a header too.
    pub(crate) optional: bool,
    /// Headers of these versions are refused.
    pub(crate) disallowed: Vec<Version>,
    pub(crate) stats: Arc<PerWorker<ProxyProtocolCells>>,
}

/// As much as is kept of a header while it comes; longer ones are consumed in steps.
const WINDOW: usize = 4096;

/// Reads the header and consumes it.
pub(super) async fn run(filter: &ProxyProtocol, facts: &mut Facts, look: &mut Look<'_>) -> Result<(), Stop> {
    let cells = filter.stats.at(look.worker);
    loop {
        match parse(look.recv.data()) {
            Parsed::Incomplete => look.more(WINDOW).await?,
            Parsed::Absent => {
                return if filter.optional {
                    cells.not_found_allowed.add(1);
                    Ok(())
                } else {
                    cells.not_found_disallowed.add(1);
                    Err(Stop::Refused)
                };
            }
            Parsed::Malformed(version) => {
                cells.version(version).error.add(1);
                return Err(Stop::Refused);
            }
            Parsed::Header { version, .. } if filter.disallowed.contains(&version) => {
                cells.version(version).disallowed.add(1);
                return Err(Stop::Refused);
            }
            Parsed::Header { version, length, addresses } => {
                consume(length, look).await?;
                cells.version(version).found.add(1);
                if let Some(addresses) = addresses {
                    facts.speak_for(&addresses);
                }
                return Ok(());
            }
        }
    }
}

async fn consume(mut length: usize, look: &mut Look<'_>) -> Result<(), Stop> {
    loop {
        let here = length.min(look.recv.data().len());
        look.recv.consume(here);
        length -= here;
        if length == 0 {
            return Ok(());
        }
        look.more(WINDOW).await?;
    }
}

// === impl Facts ===

impl Facts {
    fn speak_for(&mut self, addresses: &Addresses) {
        self.traits.source = addresses.source;
        self.restore_destination(addresses.destination);
        self.local = addresses.destination;
    }
}
