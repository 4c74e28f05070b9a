//! The descriptors of the part of Envoy's API that can be configured.

use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Made by `examples/descriptors.rs`, which says what is in it.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

static SHARED: Mutex<Shared> = Mutex::new(Shared { pool: None, users: 0 });

/// Keeps the decoded descriptors in memory.
///
/// Every conversion decodes them if nobody else has them, and forgets them after: they take some megabytes, which a
/// proxy that is configured over xDS never needs, and one that reads a file needs once. Whoever converts many messages
/// in a row holds one of these meanwhile.
#[derive(Debug)]
pub struct Descriptors {
    pool: DescriptorPool,
}

/// The decoded descriptors and the number of those who use them.
struct Shared {
    /// There while `users` is not 0.
    pool: Option<DescriptorPool>,
    users: usize,
}

// === impl Descriptors ===

impl Descriptors {
    /// Decodes them, unless somebody has them already.
    pub fn load() -> Self {
        let mut shared = SHARED.lock();
        let pool = shared.pool.get_or_insert_with(|| {
            DescriptorPool::decode(DESCRIPTORS)
                .expect("the checked-in descriptors are complete, a test decodes them")
        });
        let pool = pool.clone();
        shared.users += 1;
        Self { pool }
    }

    pub(super) fn message(&self, full_name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(full_name)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let mut shared = SHARED.lock();
        shared.users -= 1;
        if shared.users == 0 {
            shared.pool = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn know_what_can_be_configured_and_nothing_else() {
        let (one, other) = (Descriptors::load(), Descriptors::load());
        drop(one);
        assert!(other.message("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(other.message("envoy.extensions.filters.http.lua.v3.Lua").is_none());
    }
}
