//! Who may ask for what.

use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::Status;

use crate::pb::envoy::config::core::v3::Node;

/// Tells who calls. Asked once for each call, before anything of it is read.
pub trait Admission: Send + Sync {
    /// Who calls, by the value of the call's `authorization`.
    fn caller(&self, authorization: Option<&str>) -> BoxFuture<'static, Result<Arc<dyn Caller>, Refusal>>;
}

/// Somebody who proved to be who they are.
pub trait Caller: Send + Sync {
    /// Whether they may act as this proxy; if not, why, for a person who set the proxy up.
    fn may_be(&self, node: &Node) -> Result<(), String>;

    /// Whether they may see what is told to all proxies.
    fn may_see_all(&self) -> Result<(), String>;
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They did not prove who they are.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be told at this moment.
    #[error("{0}")]
    Unavailable(String),
}

/// Put into each request that was let in.
#[derive(Clone)]
pub(crate) struct Admitted(pub(super) Arc<dyn Caller>);

/// Whether whoever made a request with these extensions may act as this proxy. Where nobody is asked who they are,
/// everybody may.
pub(crate) fn may_be(admitted: Option<&Admitted>, node: &Node) -> Result<(), Status> {
    admitted.map_or(Ok(()), |Admitted(caller)| caller.may_be(node)).map_err(Status::permission_denied)
}

/// The same for seeing what all proxies are told.
pub(super) fn may_see_all(admitted: Option<&Admitted>) -> Result<(), Status> {
    admitted.map_or(Ok(()), |Admitted(caller)| caller.may_see_all()).map_err(Status::permission_denied)
}

// === impl Refusal ===

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(why) => Self::unauthenticated(why),
            Refusal::Unavailable(why) => Self::unavailable(why),
        }
    }
}
