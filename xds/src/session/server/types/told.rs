//! What a client was told of one resource.

use std::{collections::BTreeMap, sync::Arc};

use crate::session::{Name, TypeSnapshot, Version, VersionedResource};

/// What a client was told of a resource.
#[derive(Debug, Clone)]
pub(in crate::session::server) enum Told {
    /// That it exists, on this stream.
    Is(Arc<VersionedResource>),
    /// It has it from an earlier stream; `None` if the version is not one of ours.
    Had(Option<Version>),
    /// That it does not exist, or nothing where nobody waits for a word about it.
    Absent,
    /// Nothing, and it waits for a word about it.
    Nothing,
}

// === impl Told ===

impl Told {
    pub(super) fn is_old(&self) -> bool {
        matches!(self, Self::Had(_))
    }

    pub(super) fn of(name: &str, base: &TypeSnapshot, exceptions: &BTreeMap<Name, Self>) -> Self {
        match exceptions.get(name) {
            Some(told) => told.clone(),
            None => base.get(name).cloned().map_or(Self::Absent, Self::Is),
        }
    }

    pub(super) fn version(&self) -> Option<Version> {
        match self {
            Self::Is(resource) => Some(resource.version),
            Self::Had(version) => *version,
            Self::Absent | Self::Nothing => None,
        }
    }
}
