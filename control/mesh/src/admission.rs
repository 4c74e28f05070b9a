//! Who may ask mesh control for what: proxies show a bearer token, which the API server reviews.
//!
//! | token of | may be |
//! |---|---|
//! | a service account, bound to a pod | `sidecar~NAMESPACE~POD` and `grpc~NAMESPACE~POD` of that pod |
//! | a service account, bound to a node | `gateway~~NODE` of that node |
//! | a service account, not bound | `grpc~NAMESPACE~ANYTHING` in its namespace |
//! | a node's agent | `gateway~~NODE` |
//! | an administrator | any, and may see what all are told (CSDS) |

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use weft_api::mesh::{ProxyId, XDS_AUDIENCE};
use weft_discovery::model::{MeshState, PodId};
use weft_kit::error::chain;
use weft_xds::{
    pb::envoy::config::core::v3::Node,
    server::{Admission, Caller, Refusal},
};

use crate::reviews::Reviews;

/// How to get in, for a person who reads the log of a proxy that was refused.
const HELP: &str = "give a token as gRPC metadata \"authorization: Bearer TOKEN\": weft-proxy with --xds-token-path FILE, \
                    Envoy with initial_metadata of its grpc_services, gRPC with call_creds of its bootstrap; `kubectl create \
                    token` with `--audience weft-xds` makes one";

/// Groups whose members may act as any proxy.
const ADMINISTRATORS: [&str; 2] = ["system:masters", "weft:administrators"];
const NODES: &str = "system:nodes";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Lets in who has a token that the API server believes.
pub(crate) struct ByToken {
    client: Client,
    reviews: Arc<Reviews<Known, Refusal>>,
    state: watch::Receiver<Arc<MeshState>>,
}

/// Somebody whom the API server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    user: String,
    is: Standing,
    /// Of the pod that the token is bound to.
    pod_uid: Option<String>,
}

/// What matters about them here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Administrator,
    Node(String),
    Account { namespace: String, pod: Option<String>, node: Option<String> },
    Other,
}

// === impl ByToken ===

impl ByToken {
    /// A token that is bound to a pod is believed without another review only while the pod is in `state`.
    pub(crate) fn new(client: Client, state: watch::Receiver<Arc<MeshState>>) -> Self {
        Self { client, reviews: Arc::new(Reviews::new()), state }
    }
}

impl Admission for ByToken {
    fn caller(&self, authorization: Option<&str>) -> BoxFuture<'static, Result<Arc<dyn Caller>, Refusal>> {
        let token = authorization.map(|value| value.split_once(' ').unwrap_or((value, "")));
        let token = match token {
            None => Err(unknown("no token was given")),
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim().to_owned()),
            Some(_) => Err(unknown("the authorization is no bearer token")),
        };
        let (client, reviews, state) = (self.client.clone(), self.reviews.clone(), self.state.clone());
        async move {
            let token = token?;
            let holds = |known: &Known| known.is_there(&state.borrow());
            let known: Arc<dyn Caller> =
                reviews.review(&token, holds, || who(client, token.clone()).boxed()).await?;
            Ok(known)
        }
        .boxed()
    }
}

fn unknown(why: &str) -> Refusal {
    Refusal::Unknown(format!("{why}; {HELP}"))
}

/// Whose token it is, asked of the API server.
async fn who(client: Client, token: String) -> Result<Known, Refusal> {
    let status = review(client, token).await?;
    if status.authenticated != Some(true) {
        let why = status.error.unwrap_or_else(|| "it is not known".to_owned());
        return Err(unknown(&format!("the token is not valid: {why}")));
    }
    Ok(Known::new(status.user.unwrap_or_default()))
}

async fn review(
    client: Client,
    token: String,
) -> Result<k8s_openapi::api::authentication::v1::TokenReviewStatus, Refusal> {
    let review = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec { token: Some(token), audiences: Some(vec![XDS_AUDIENCE.to_owned()]) },
        status: None,
    };
    match Api::<TokenReview>::all(client).create(&PostParams::default(), &review).await {
        Ok(review) => Ok(review.status.unwrap_or_default()),
        // The proxy tries again, as it does when control is away.
        Err(error) => Err(Refusal::Unavailable(format!("the token cannot be reviewed: {}", chain(&error)))),
    }
}

// === impl Known ===

impl Known {
    fn new(info: UserInfo) -> Self {
        let (user, groups) = (info.username.unwrap_or_default(), info.groups.unwrap_or_default());
        let is_in = |group: &str| groups.iter().any(|member| member == group);
        let extra = info.extra.unwrap_or_default();
        let first = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
        let is = if ADMINISTRATORS.into_iter().any(is_in) {
            Standing::Administrator
        } else if let Some(node) = user.strip_prefix("system:node:").filter(|_| is_in(NODES)) {
            Standing::Node(node.to_owned())
        } else if let Some((namespace, _)) =
            user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            let (pod, node) = (first(POD_NAME), first(NODE_NAME));
            Standing::Account { namespace: namespace.to_owned(), pod, node }
        } else {
            Standing::Other
        };
        Self { user, is, pod_uid: first(POD_UID) }
    }

    /// Whether the pod that the token is bound to, if it is, is still there: its token ends with it.
    fn is_there(&self, state: &MeshState) -> bool {
        let Standing::Account { namespace, pod: Some(pod), .. } = &self.is else { return true };
        let there = state.pods.get(&PodId::new(namespace, pod));
        there.is_some_and(|pod| self.pod_uid.as_ref() == Some(&pod.uid))
    }

    /// In words, which proxies they may be.
    fn allowed(&self) -> String {
        match &self.is {
            Standing::Administrator => "any proxy".to_owned(),
            Standing::Node(node) => format!("gateway~~{node}"),
            Standing::Account { namespace, pod: Some(pod), .. } => {
                format!("sidecar~{namespace}~{pod} and grpc~{namespace}~{pod}")
            }
            Standing::Account { node: Some(node), .. } => format!("gateway~~{node}"),
            Standing::Account { namespace, .. } => format!("grpc~{namespace}~NAME"),
            Standing::Other => "no proxy".to_owned(),
        }
    }
}

impl Caller for Known {
    fn may_be(&self, node: &Node) -> Result<(), String> {
        let id: ProxyId = node.id.parse().map_err(|error| format!("node.id: {error}"))?;
        let may = match (&self.is, &id) {
            (Standing::Administrator, _) => true,
            (Standing::Node(own), ProxyId::Gateway { node }) => own == node,
            (
                Standing::Account { namespace: own, pod: Some(own_pod), .. },
                ProxyId::Sidecar { namespace, pod } | ProxyId::Grpc { namespace, name: pod },
            ) => own == namespace && own_pod == pod,
            // The token of a pod names the node that it runs on as well, and is not the node's.
            (Standing::Account { pod: None, node: Some(own), .. }, ProxyId::Gateway { node }) => own == node,
            (
                Standing::Account { namespace: own, pod: None, node: None },
                ProxyId::Grpc { namespace, .. },
            ) => own == namespace,
            _ => false,
        };
        if may {
            return Ok(());
        }
        let (user, allowed) = (&self.user, self.allowed());
        Err(format!("the token of {user:?} is for {allowed}, and node.id is {id}"))
    }

    fn may_see_all(&self) -> Result<(), String> {
        if self.is == Standing::Administrator {
            return Ok(());
        }
        Err(format!(
            "{:?} may not see what other proxies are told; the token of an administrator is needed",
            self.user
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_discovery::model::Pod;

    use super::*;
    use crate::catalog::tests::{pod, state};

    fn known(user: &str, groups: &[&str], extra: &[(&str, &str)]) -> Known {
        let extra: BTreeMap<_, _> =
            extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect();
        Known::new(UserInfo {
            username: Some(user.to_owned()),
            groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
            extra: Some(extra),
            uid: None,
        })
    }

    #[test]
    fn everybody_is_who_their_token_says_and_nobody_else() {
        let account = "system:serviceaccount:shop:cart";
        let ids = [
            "sidecar~shop~cart-1",
            "sidecar~shop~cart-2",
            "sidecar~bank~cart-1",
            "grpc~shop~cart-1",
            "grpc~shop~any",
            "grpc~bank~any",
            "gateway~~n1",
            "gateway~~n2",
        ];
        for (known, allowed) in [
            (known("root", &["system:masters"], &[]), &ids[..]),
            (known("admin", &["weft:administrators"], &[]), &ids[..]),
            (known(account, &[], &[(POD_NAME, "cart-1"), (NODE_NAME, "n1")]), &[ids[0], ids[3]]),
            (known(account, &[], &[(NODE_NAME, "n1")]), &[ids[6]]),
            (known(account, &[], &[]), &[ids[3], ids[4]]),
            (known("system:node:n1", &["system:nodes"], &[]), &[ids[6]]),
            (known("system:node:n1", &[], &[]), &[]),
            (known("alice", &["dev"], &[]), &[]),
        ] {
            for id in ids {
                let node = Node { id: id.to_owned(), ..Node::default() };
                let answer = known.may_be(&node);
                assert_eq!(answer.is_ok(), allowed.contains(&id), "{known:?} as {id}: {answer:?}");
                if let Err(why) = answer {
                    assert!(why.contains(id) && why.contains(&known.user), "{why}");
                }
            }
            assert_eq!(known.may_see_all().is_ok(), allowed.len() == ids.len());
        }
    }

    #[test]
    fn a_token_that_is_bound_to_a_pod_ends_with_it() {
        let account = "system:serviceaccount:default:cart";
        let of_pod = known(account, &[], &[(POD_NAME, "cart-1"), (POD_UID, "uid-cart-1")]);
        let now = |pods| state(Vec::new(), Vec::new(), pods);
        let pod = pod("cart-1", "10.0.0.1", &[]);
        assert!(of_pod.is_there(&now(vec![pod.clone()])));
        let another = Pod { uid: "uid-of-another".to_owned(), ..pod };
        assert!(!of_pod.is_there(&now(vec![another])), "of the same name");
        assert!(!of_pod.is_there(&now(Vec::new())));
        assert!(known(account, &[], &[]).is_there(&now(Vec::new())), "bound to no pod");
    }

    #[test]
    fn a_node_that_is_no_proxy_of_ours_is_told_what_would_be() {
        let admin = known("root", &["system:masters"], &[]);
        let why = admin.may_be(&Node { id: "envoy-1".to_owned(), ..Node::default() }).unwrap_err();
        assert!(why.contains("node.id") && why.contains("gateway~~NODE"), "{why}");
    }
}
