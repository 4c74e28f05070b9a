//! A user and the groups that it is in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) uid: String,
    /// Always holds [`AUTHENTICATED`] or [`UNAUTHENTICATED`].
    pub(crate) groups: Vec<String>,
    /// What else is known, by Kubernetes' keys.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user who proved to be one.
    pub(crate) fn known(
        user: impl Into<String>,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { user: user.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            user: ANONYMOUS.to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.is_in(UNAUTHENTICATED)
    }

    /// The node whose agent this is.
    pub(crate) fn node(&self) -> Option<&str> {
        self.user.strip_prefix(NODE_PREFIX).filter(|_| self.is_in(NODES))
    }

    /// `authentication.k8s.io` UserInfo.
    pub(crate) fn to_user_info(&self) -> Value {
        let mut info = BTreeMap::from([("username", json!(self.user)), ("groups", json!(self.groups))]);
        if !self.uid.is_empty() {
            info.insert("uid", json!(self.uid));
        }
        if !self.extra.is_empty() {
            info.insert("extra", json!(self.extra));
        }
        json!(info)
    }
}
