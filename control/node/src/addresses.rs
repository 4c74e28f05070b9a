//! Loopback addresses of the process runtime.
//!
//! Each pod has a pair in `127.64.0.0/10`: the even address is the pod's (its processes bind it), the odd one above
//! it is its sidecar's. Linux answers for all of `127.0.0.0/8`, so nothing needs to be configured and no root.

use std::{collections::BTreeSet, hash::Hasher as _, net::Ipv4Addr, path::Path};

/// First address of the range, as a number.
const BASE: u32 = u32::from_be_bytes([127, 64, 0, 0]);
/// Addresses in the range.
const SIZE: u32 = 1 << 22;
/// Addresses in the block that a data directory starts from.
const BLOCK: u32 = 1 << 12;

/// A pod's address and its sidecar's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AddressPair {
    /// Where the pod's processes listen.
    pub(crate) pod: Ipv4Addr,
}

/// Hands out pairs; the pods' state directories remember them, so this is rebuilt from there at start.
#[derive(Debug)]
pub(crate) struct AddressPool {
    /// Offset of the next pair to try. Moving on instead of reusing the lowest keeps a new pod off the address of
    /// one that was just deleted, which others may still be calling.
    next: u32,
    /// Offsets of the pairs in use; canonical.
    used: BTreeSet<u32>,
}

/// All pairs are in use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("all {} pod addresses of 127.64.0.0/10 are in use", SIZE / 2)]
pub(crate) struct Exhausted;

// === impl AddressPair ===

impl AddressPair {
    /// The pair of a pod's address; `None` if it is not one of ours.
    pub(crate) fn from_pod(pod: Ipv4Addr) -> Option<Self> {
        offset_of(pod).filter(|offset| offset.is_multiple_of(2)).map(|_| Self { pod })
    }

    /// Where the sidecar listens.
    pub(crate) fn sidecar(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod) + 1)
    }
}

// === impl AddressPool ===

impl AddressPool {
    /// A pool that starts at a place derived from the data directory, so that two clusters on one machine seldom
    /// try the same addresses.
    pub(crate) fn new(data_dir: &Path) -> Self {
        // Any hash that stays the same from run to run will do.
        #[expect(
            deprecated,
            reason = "the only hasher of std whose output is the same in every process and release"
        )]
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(data_dir.as_os_str().as_encoded_bytes());
        let block = u32::try_from(hasher.finish() % u64::from(SIZE / BLOCK)).unwrap_or(0);
        Self { next: block * BLOCK, used: BTreeSet::new() }
    }

    /// Marks a pair as used; to be called for each pod found at start.
    pub(crate) fn adopt(&mut self, pair: AddressPair) {
        if let Some(offset) = offset_of(pair.pod) {
            self.used.insert(offset);
            self.next = (offset + 2) % SIZE;
        }
    }

    /// The next free pair for which `usable` holds (nobody else on the machine listens there).
    pub(crate) fn allocate(
        &mut self,
        usable: impl Fn(AddressPair) -> bool,
    ) -> Result<AddressPair, Exhausted> {
        for _ in 0..SIZE / 2 {
            let offset = self.next;
            self.next = (self.next + 2) % SIZE;
            // x.y.z.0 and x.y.z.254/255 work on loopback, but software that validates addresses dislikes them.
            let last = offset % 256;
            if last == 0 || last == 254 || self.used.contains(&offset) {
                continue;
            }
            let pair = AddressPair { pod: Ipv4Addr::from(BASE + offset) };
            if usable(pair) {
                self.used.insert(offset);
                return Ok(pair);
            }
        }
        Err(Exhausted)
    }

    /// Makes a pair available again.
    pub(crate) fn release(&mut self, pair: AddressPair) {
        if let Some(offset) = offset_of(pair.pod) {
            self.used.remove(&offset);
        }
    }
}

fn offset_of(address: Ipv4Addr) -> Option<u32> {
    u32::from(address).checked_sub(BASE).filter(|offset| *offset < SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> AddressPool {
        AddressPool { next: 0, used: BTreeSet::new() }
    }

    #[test]
    fn pairs_are_even_and_odd_and_never_handed_out_twice() {
        let mut pool = pool();
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let pair = pool.allocate(|_| true).expect("free");
            assert_eq!(u32::from(pair.pod) % 2, 0);
            assert_eq!(u32::from(pair.sidecar()), u32::from(pair.pod) + 1);
            assert!(seen.insert(pair.pod));
        }
    }

    #[test]
    fn a_released_pair_is_not_the_next_one() {
        let mut pool = pool();
        let first = pool.allocate(|_| true).expect("free");
        pool.release(first);
        assert_ne!(pool.allocate(|_| true).expect("free"), first);
    }

    #[test]
    fn adopted_and_unusable_pairs_are_skipped() {
        let mut pool = pool();
        let adopted = AddressPair::from_pod(Ipv4Addr::new(127, 64, 0, 2)).expect("in range");
        pool.adopt(adopted);
        pool.next = 0;
        let busy = Ipv4Addr::new(127, 64, 0, 4);
        let pair = pool.allocate(|pair| pair.pod != busy).expect("free");
        assert_eq!(pair.pod, Ipv4Addr::new(127, 64, 0, 6));
    }

    #[test]
    fn the_range_wraps_and_ends_in_an_error() {
        let mut pool = AddressPool { next: SIZE - 4, used: BTreeSet::new() };
        assert_eq!(pool.allocate(|_| true).expect("free").pod, Ipv4Addr::new(127, 127, 255, 252));
        assert_eq!(pool.allocate(|_| true).expect("free").pod, Ipv4Addr::new(127, 64, 0, 2));
        assert_eq!(pool.allocate(|_| false), Err(Exhausted));
    }

    #[test]
    fn addresses_outside_the_range_are_not_pairs() {
        assert_eq!(AddressPair::from_pod(Ipv4Addr::new(127, 0, 0, 1)), None);
        assert_eq!(AddressPair::from_pod(Ipv4Addr::new(127, 64, 0, 3)), None);
    }
}
