//! Asking over HTTP: a request like the client's, with as much of its body as is told, answered with 200 if it may pass.

use std::{sync::Arc, time::Duration};

use super::{
    Decision, Telling, Told,
    check::PARTIAL,
    decision::{Answer, Changes, Field, is_ours},
};
use crate::{
    callout::{self, Call, Keep},
    cluster::{ClusterSlot, breaker::Priority},
    filter::Request,
    http::head::{Head, Known, Method, tokens},
    proxy_protocol::Addresses,
    route::{
        matcher::TextMatch,
        mutate::{Addition, Append},
    },
};

/// Largest answer; it is held in memory, and most of it is for a client to read.
const LARGEST: usize = 1024 * 1024;

const TO_REMOVE: &[u8] = b"x-envoy-auth-headers-to-remove";

/// The service as it is configured.
#[derive(Debug)]
pub(super) struct HttpService {
    pub(super) cluster: Arc<ClusterSlot>,
    pub(super) timeout: Option<Duration>,
    pub(super) path: PathRule,
    pub(super) add: Vec<Field>,
    /// Fields of an answer that go into the request, in place of what is there and beside it.
    pub(super) upstream: Vec<TextMatch>,
    pub(super) upstream_append: Vec<TextMatch>,
    /// Fields of a denial that the client gets; without any, all.
    pub(super) client: Vec<TextMatch>,
    /// Fields of an answer that the client gets with the response.
    pub(super) client_on_success: Vec<TextMatch>,
}

/// What is asked for.
#[derive(Debug)]
pub(super) enum PathRule {
    /// This before the request's own path.
    Prefix(Vec<u8>),
    /// This instead.
    Override(Vec<u8>),
}

/// Asks the service about a request.
pub(super) async fn ask(
    service: &HttpService,
    telling: &Telling,
    request: &Request<'_>,
    told: Told,
) -> Decision {
    let Some(cluster) = service.cluster.get() else { return Decision::Failed(None) };
    let cx = request.cx;
    let head = service.question(telling, request.head, &told);
    let call = Call {
        worker: &cx.worker,
        cluster: &cluster,
        head: &head,
        body: &told.body,
        priority: Priority::Default,
        hash: None,
        client: Addresses { source: cx.peer, destination: cx.local },
        timeout: service.timeout,
        keep: Keep::Within(LARGEST),
    };
    match call.send().await {
        Ok(answer) => service.decision(answer),
        Err(error) => {
            tracing::debug!(%error, "cannot ask for authorisation");
            Decision::Failed(None)
        }
    }
}

// === impl HttpService ===

impl HttpService {
    fn question(&self, telling: &Telling, asked: &Head, told: &Told) -> Head {
        let mut head = Head::default();
        head.version = asked.version;
        let method = head.intern(asked.method_text());
        // Without what follows a CONNECT, which is no request to the service.
        head.set_method(if asked.method == Method::Connect { Method::Other } else { asked.method }, method);
        let target = match &self.path {
            // A CONNECT has no path.
            PathRule::Prefix(prefix) if prefix.is_empty() && asked.target().is_empty() => head.intern(b"/"),
            PathRule::Prefix(prefix) => head.intern(&[prefix, asked.target()].concat()),
            PathRule::Override(path) => head.intern(path),
        };
        head.set_target(target);
        let authority = head.intern(asked.authority());
        head.set_authority(authority);
        match told.is_partial() {
            Some(partial) => head.append(PARTIAL.as_bytes(), partial.as_bytes()),
            None => head.append(b"content-length", b"0"),
        }
        for (known, name, value) in asked.fields() {
            let name = name.to_ascii_lowercase();
            let always = name == b"authorization";
            // Told only what is listed, unlike over gRPC.
            let told = always || telling.allowed.is_some();
            if known != Known::Host && !is_ours(&name) && told && (always || telling.tells(&name)) {
                head.append(&name, value);
            }
        }
        for (name, value) in &self.add {
            head.set(name, value);
        }
        callout::announce(&mut head, self.timeout);
        head
    }

    fn decision(&self, answer: callout::Answer) -> Decision {
        match answer.head.status {
            200 => Decision::Allowed(self.changes(&answer.head)),
            500.. => Decision::Failed(None),
            status => Decision::Denied(Answer {
                status: Some(u32::from(status)),
                fields: fields(&answer.head).filter(|(name, _)| self.tells_client(name)).collect(),
                body: answer.body,
            }),
        }
    }

    fn changes(&self, head: &Head) -> Changes {
        let mut changes = Changes::default();
        for (name, value) in fields(head) {
            if name == TO_REMOVE {
                changes.remove.extend(tokens(&value).map(<[u8]>::to_ascii_lowercase));
                continue;
            }
            if among(&self.upstream, &name) {
                changes.set.push((name.clone(), value.clone()));
            }
            if among(&self.upstream_append, &name) {
                changes.add.push((name.clone(), value.clone()));
            }
            if among(&self.client_on_success, &name) {
                changes.response.push(Addition::literal(name, value, Append::Always));
            }
        }
        changes
    }

    fn tells_client(&self, name: &[u8]) -> bool {
        name != TO_REMOVE
            && (self.client.is_empty()
                || among(&self.client, name)
                || matches!(name, b"www-authenticate" | b"location"))
    }
}

/// The fields of an answer that are not about the hop between us and the service.
fn fields(head: &Head) -> impl Iterator<Item = Field> {
    head.fields()
        .map(|(_, name, value)| (name.to_ascii_lowercase(), value.to_vec()))
        .filter(|(name, _)| !is_ours(name))
}

fn among(list: &[TextMatch], name: &[u8]) -> bool {
    list.iter().any(|pattern| pattern.matches(name))
}
