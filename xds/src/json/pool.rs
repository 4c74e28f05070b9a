//! The descriptors of the part of Envoy's API that can be configured.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Made by `examples/descriptors.rs`, which says what is in it.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

/// The pool in use, if any. Only its users keep it alive: decoded it takes some megabytes, which a proxy that got its
/// configuration over xDS never needs, and one that read a file needs once.
static SHARED: Mutex<Weak<Pool>> = Mutex::new(Weak::new());

/// The decoded descriptors; shared by all who use them at the same time, gone after the last.
#[derive(Debug)]
pub(super) struct Pool(DescriptorPool);

// === impl Pool ===

impl Pool {
    pub(super) fn get() -> Arc<Self> {
        let mut shared = SHARED.lock();
        if let Some(pool) = shared.upgrade() {
            return pool;
        }
        let decoded = DescriptorPool::decode(DESCRIPTORS)
            .expect("the checked-in descriptors are complete, a test decodes them");
        let pool = Arc::new(Self(decoded));
        *shared = Arc::downgrade(&pool);
        pool
    }

    pub(super) fn message(&self, full_name: &str) -> Option<MessageDescriptor> {
        self.0.get_message_by_name(full_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shared_while_in_use_and_dropped_after() {
        let pool = Pool::get();
        assert!(Arc::ptr_eq(&pool, &Pool::get()));
        assert!(pool.message("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(pool.message("envoy.extensions.filters.http.lua.v3.Lua").is_none());
    }
}
