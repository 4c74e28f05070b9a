//! Who asks, and what they may do.

pub(crate) mod accounts;
pub(crate) mod authn;
pub(crate) mod authz;
pub(crate) mod identity;
pub(crate) mod tokens;

pub(crate) use authn::Caller;
pub(crate) use identity::Identity;
