//! The token with which a proxy shows the mesh control service who it is: one of the API server's, for a service account,
//! bound to the pod or node that the proxy serves.

use std::{
    fmt, io,
    os::unix::fs::{OpenOptionsExt as _, chown},
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use tokio::time::Instant;
use weft_api::mesh::XDS_AUDIENCE;

/// A file with a token that is renewed long before it expires. It is replaced as a whole: the proxy reads it for each
/// stream that it opens.
pub(crate) struct TokenFile {
    subject: Subject,
    path: PathBuf,
    /// Who may read it, if not this process's own user.
    owner: Option<u32>,
    /// When to renew it; `None` before this process has got one.
    due: Option<Instant>,
}

/// Whom a token is for.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// `Pod` or `Node`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Of the pod; a token for another pod of the same name is of no use.
    pub(crate) uid: Option<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the API server gave no token")]
    Request(#[source] kube::Error),
    #[error("the API server gave an empty token")]
    Empty,
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// So long that proxies outlive a day without control.
const LIFE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Renewed when so much of it is over.
const RENEWAL: Duration = Duration::from_secs(12 * 3600);
/// When to try again what failed while the token of before is still good.
const RETRY: Duration = Duration::from_secs(30);

// === impl TokenFile ===

impl TokenFile {
    pub(crate) fn new(subject: Subject, path: PathBuf, owner: Option<u32>) -> Self {
        Self { subject, path, owner, due: None }
    }

    /// Sees to it that a good token is there, and tells when to look again.
    pub(crate) async fn renew(&mut self, client: &kube::Client) -> Result<Duration, TokenError> {
        let now = Instant::now();
        if let Some(due) = self.due.filter(|due| *due > now) {
            return Ok(due - now);
        }
        let pause = match self.request(client).await {
            Ok(()) => RENEWAL,
            // One of an earlier renewal, or of an earlier agent, which is at most as old as that.
            Err(error) if self.path.exists() => {
                tracing::warn!(
                    error = weft_kit::error::chain(&error),
                    "the token of a proxy is not renewed yet"
                );
                RETRY
            }
            Err(error) => return Err(error),
        };
        self.due = Some(now + pause);
        Ok(pause)
    }

    async fn request(&self, client: &kube::Client) -> Result<(), TokenError> {
        let Subject { namespace, account, kind, name, uid } = &self.subject;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![XDS_AUDIENCE.to_owned()],
                expiration_seconds: i64::try_from(LIFE.as_secs()).ok(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some((*kind).to_owned()),
                    name: Some(name.clone()),
                    uid: uid.clone(),
                }),
            },
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let token =
            answer.map_err(TokenError::Request)?.status.map(|status| status.token).unwrap_or_default();
        if token.is_empty() {
            return Err(TokenError::Empty);
        }
        self.write(&token).map_err(|source| TokenError::Write { path: self.path.clone(), source })
    }

    fn write(&self, token: &str) -> io::Result<()> {
        use std::io::Write as _;
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let next = self.path.with_extension("next");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(token.as_bytes())?;
        if let Some(owner) = self.owner {
            chown(&next, Some(owner), Some(owner))?;
        }
        std::fs::rename(&next, &self.path)
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile")
            .field("subject", &self.subject)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
