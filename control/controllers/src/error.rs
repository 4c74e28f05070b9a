//! What can go wrong while reconciling.

/// Why a key has to be worked on again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action}")]
    Api {
        /// What was to be done.
        action: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// An object has a selector that cannot be read. Trying again helps only after it was changed, which adds the key.
    #[error("the selector cannot be read")]
    Selector(#[source] kube::core::ParseExpressionError),
    /// What the work was based on changed meanwhile.
    #[error("{0}")]
    Stale(String),
}

/// Adds to an API error what was being done.
pub(crate) trait During<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError>;
}

// === impl ReconcileError ===

impl ReconcileError {
    /// Whether only the cache was behind.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Api { source, .. } => code(source) == Some(409) || code(source) == Some(404),
            Self::Stale(_) => true,
            Self::Selector(_) => false,
        }
    }
}

impl<T> During<T> for kube::Result<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError> {
        self.map_err(|source| ReconcileError::Api { action: action(), source: Box::new(source) })
    }
}

/// The status code that the API server answered with, if it did.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether the object is not there (any more).
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// Whether creation failed because the name is taken.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether creation failed because the namespace is being deleted: nothing can be created there, and nothing needs to.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    status.code == 403
        && (causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated"))
}

/// Success if the object was gone already.
pub(crate) fn unless_gone<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the API server said, without the client's words around it.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => weft_kit::error::chain(other),
    }
}
