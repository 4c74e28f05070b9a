//! From a request to the handler that answers it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_api::{registry, registry::Resource, status::Status};

use crate::{
    admission::ServiceAddresses,
    aggregate::Aggregation,
    auth::{
        Caller, Identity,
        accounts::Accounts,
        authn,
        authz::{self, Action, Decision},
        tokens::Tokens,
    },
    context::Context,
    discovery, handlers,
    metrics::Metrics,
    node_client::NodeClient,
    openapi::OpenApi,
    storage::Storage,
    wire::{
        body::{self, Body},
        params::Params,
        path::{self, ResourcePath, Target},
    },
};

/// Requests that are worked on at a time; as kube-apiserver, reads and writes together. Watches do not count once they run.
pub(crate) const MAX_IN_FLIGHT: usize = 600;
/// How long a request waits for its turn before it is told to come back later.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a handler may take until its answer begins.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(90);

/// Everything that requests share.
pub(crate) struct App {
    pub(crate) storage: Storage,
    pub(crate) services: Arc<ServiceAddresses>,
    pub(crate) tokens: Tokens,
    pub(crate) accounts: Accounts,
    pub(crate) metrics: Metrics,
    pub(crate) nodes: NodeClient,
    pub(crate) openapi: OpenApi,
    pub(crate) aggregations: ArcSwap<Vec<Arc<Aggregation>>>,
    pub(crate) in_flight: Semaphore,
    /// Host and port under which clients reach the server.
    pub(crate) address: String,
    pub(crate) shutdown: CancellationToken,
}

impl App {
    /// Answers every request with something that clients of Kubernetes understand.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Body>,
        caller: Caller,
    ) -> BoxFuture<'static, Response<Body>> {
        let answer = async move { self.answer(request, &caller).await };
        let answer = AssertUnwindSafe(answer).catch_unwind().map(|answer| match answer {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => body::failure(&status),
            // The panic itself is in the log; the client learns that it is not its fault and nothing else.
            Err(_) => {
                body::failure(&Status::internal("the server met a condition that it is not prepared for"))
            }
        });
        answer.boxed()
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Body>,
        caller: &Caller,
    ) -> Result<Response<Body>, Status> {
        let identity = authn::authenticate(caller, request.headers(), &self.tokens, &self.accounts)?;
        let target = path::parse(request.uri().path())?;
        let Target::Resource(resource_path) = target else {
            return self.answer_path(request.into_parts().0, &identity, target).await;
        };
        let permit = timeout(QUEUE_TIMEOUT, self.in_flight.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            let message = "the server has received too many requests and has asked us to try again later";
            return Err(Status::too_many_requests(message, 1));
        };
        self.metrics.in_flight.inc();
        let answer = Box::pin(self.answer_resource(request, identity, resource_path));
        let answer = timeout(HANDLER_TIMEOUT, answer).await;
        self.metrics.in_flight.dec();
        answer.unwrap_or_else(|_| Err(Status::timeout("the request was not finished in time")))
    }

    async fn answer_resource(
        self: &Arc<Self>,
        request: Request<Body>,
        identity: Identity,
        path: ResourcePath,
    ) -> Result<Response<Body>, Status> {
        let started = Instant::now();
        let params = Params::parse(request.uri().query());
        let verb = handlers::verb(request.method(), &path, &params);
        let decision = self.authorise(&identity, verb, &path)?;
        let verb = verb.ok_or_else(Status::method_not_allowed)?;
        if let Some(review) = registry::find_review(&path.group, &path.version, &path.resource) {
            if verb != "create" || path.name.is_some() {
                return Err(Status::method_not_allowed());
            }
            let (parts, body) = request.into_parts();
            return handlers::review::create(review, &identity, self, &parts.headers, body).await;
        }
        let Some(resource) = registry::find(&path.group, &path.version, &path.resource) else {
            let aggregations = self.aggregations.load_full();
            let found = aggregations.iter().find(|found| {
                found.group == path.group
                    && found.version == path.version
                    && found.resources.iter().any(|resource| resource.is_at(&path.resource))
            });
            return match found {
                Some(found) => Ok(found.answer(request, &identity).await),
                None if verb == "list" && is_custom_kinds(&path) => Ok(no_custom_kinds()),
                None => Err(Status::no_such_path()),
            };
        };
        if path.namespace.is_some() && !resource.namespaced {
            return Err(Status::no_such_path());
        }
        if path.namespace.is_none() && resource.namespaced && (path.name.is_some() || verb == "create") {
            // An object of a namespace cannot be had without it.
            return Err(if path.name.is_some() {
                Status::no_such_path()
            } else {
                Status::method_not_allowed()
            });
        }
        let subresource = path.subresource.as_deref().and_then(|name| resource.subresource(name));
        let (parts, body) = request.into_parts();
        let context = self.context(resource, path, params, parts, identity, decision);
        let answer = handlers::handle(context, verb, body).await;
        let code = match &answer {
            Ok(response) => response.status().as_u16(),
            Err(status) => status.code,
        };
        let subresource = subresource.map_or("", |subresource| subresource.name);
        self.metrics.answered(verb, resource, subresource, code, started.elapsed());
        answer
    }

    fn context(
        self: &Arc<Self>,
        resource: &'static Resource,
        path: ResourcePath,
        params: Params,
        parts: Parts,
        identity: Identity,
        decision: Decision,
    ) -> Context {
        let query = parts.uri.query().map(str::to_owned);
        Context {
            app: self.clone(),
            resource,
            path,
            params,
            query,
            headers: parts.headers,
            identity,
            decision,
        }
    }

    fn authorise(
        &self,
        identity: &Identity,
        verb: Option<&str>,
        path: &ResourcePath,
    ) -> Result<Decision, Status> {
        let verb = verb.unwrap_or("unknown");
        let subresource = path.subresource.as_deref().unwrap_or_default();
        let name = path.name.as_deref().unwrap_or_default();
        let namespace = path.namespace.as_deref().unwrap_or_default();
        let (group, resource) = (path.group.as_str(), path.resource.as_str());
        let action = Action::Resource { verb, group, resource, subresource, namespace, name };
        let decision = authz::decide(identity, action);
        if decision != Decision::Denied {
            return Ok(decision);
        }
        let slash = if subresource.is_empty() { "" } else { "/" };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let subject = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Err(Status::forbidden_path(format!(
            "{qualified}{subject} is forbidden: User \"{}\" cannot {verb} resource \"{resource}{slash}{subresource}\" in API \
             group \"{group}\" {place}",
            identity.user
        )))
    }

    /// Everything that is not about objects.
    async fn answer_path(
        &self,
        request: Parts,
        identity: &Identity,
        target: Target,
    ) -> Result<Response<Body>, Status> {
        let path = request.uri.path();
        let verb = request.method.as_str().to_ascii_lowercase();
        if authz::decide(identity, Action::Path { verb: &verb, path }) == Decision::Denied {
            let user = &identity.user;
            return Err(Status::forbidden_path(format!(
                "forbidden: User \"{user}\" cannot {verb} path \"{path}\""
            )));
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Status::method_not_allowed());
        }
        let headers = &request.headers;
        let catalogue = || discovery::catalogue(&self.aggregations.load());
        match target {
            Target::CoreDiscovery { version } => {
                discovery::core(&catalogue(), version.as_deref(), &self.address, headers)
            }
            Target::GroupDiscovery { group, version } => {
                discovery::groups(&catalogue(), group.as_deref(), version.as_deref(), headers)
            }
            _ => self.answer_other(path, headers).await,
        }
    }

    async fn answer_other(&self, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let path = path.trim_end_matches('/');
        if let Some(document) = path.strip_prefix("/openapi/v3/") {
            return self.openapi.document(document);
        }
        match path {
            "" => Ok(body::json(
                StatusCode::OK,
                &json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3",
                    "/readyz", "/version"]}),
            )),
            "/version" => Ok(body::json(StatusCode::OK, &crate::version::version())),
            "/openapi/v3" => Ok(self.openapi.index()),
            "/openapi/v2" => self.openapi.v2(headers),
            "/metrics" => {
                let text = self.metrics.render(self.storage.cache.counts());
                Ok(body::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
            }
            "/livez" | "/livez/ping" | "/healthz" | "/healthz/ping" => Ok(body::text(StatusCode::OK, "ok")),
            "/readyz" | "/readyz/ping" => Ok(self.readiness().await),
            _ => Err(Status::no_such_path()),
        }
    }

    /// Ready is who can read the store, follows it, and is not about to end.
    async fn readiness(&self) -> Response<Body> {
        if self.shutdown.is_cancelled() {
            return body::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        }
        match self.storage.cache.catch_up().await {
            Ok(()) => body::text(StatusCode::OK, "ok"),
            Err(status) => body::text(StatusCode::INTERNAL_SERVER_ERROR, status.message),
        }
    }
}

/// Whether this is the list of custom kinds: kubectl reads it, undiscovered, when a manifest holds a kind that it does not
/// know. There are none here; told so, it says which kind is unknown instead of which list.
fn is_custom_kinds(path: &ResourcePath) -> bool {
    path.group == "apiextensions.k8s.io"
        && path.version == "v1"
        && path.resource == "customresourcedefinitions"
}

fn no_custom_kinds() -> Response<Body> {
    let list = json!({
        "kind": "CustomResourceDefinitionList",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"resourceVersion": "1"},
        "items": [],
    });
    body::json(StatusCode::OK, &list)
}
