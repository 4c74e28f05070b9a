//! Requests to the metrics APIs.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{Api, Client, Resource, api::ListParams};
use serde_json::Value;
use tokio::sync::watch;
use weft_api::status::Status;
use weft_discovery::model::{MeshState, PodId, ServiceId};
use weft_kit::error::chain;

use super::{
    custom,
    path::{Asked, CustomVersion, Kind, Named, Selectors},
    reply::{self, Metric},
    scrape::Scraper,
};
use crate::load::{Load, Loads};

/// An API group to be served under the API server's address, answered by `S`.
#[derive(Clone)]
pub struct AggregatedApi<S = MetricsService> {
    /// Its group.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What discovery tells of it.
    pub resources: Vec<ApiResource>,
    /// Answers everything below `/apis/GROUP/VERSION/`; requests carry their whole path.
    pub service: S,
}

/// A resource, as discovery tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiResource {
    /// Plural name.
    pub name: String,
    /// Singular name; empty where Kubernetes has none.
    pub singular: &'static str,
    /// Kind of the objects.
    pub kind: &'static str,
    /// Whether they belong to a namespace.
    pub namespaced: bool,
    /// What can be done with them.
    pub verbs: &'static [&'static str],
}

/// A [`tower::Service`] that answers requests to the metrics APIs; clones share everything.
#[derive(Clone)]
pub struct MetricsService {
    client: Client,
    scraper: Scraper,
    loads: Loads,
    state: watch::Receiver<Arc<MeshState>>,
}

/// The API groups, all answered by `service`.
pub fn apis(service: &MetricsService) -> Vec<AggregatedApi> {
    let usage = |name: &str, kind, namespaced| ApiResource {
        name: name.to_owned(),
        singular: "",
        kind,
        namespaced,
        verbs: &["get", "list"],
    };
    let load = |kind: &str, metric: Metric| ApiResource {
        name: format!("{kind}/{}", metric.name()),
        singular: "",
        kind: "MetricValueList",
        namespaced: true,
        verbs: &["get"],
    };
    let loads: Vec<ApiResource> =
        ["pods", "services"].iter().flat_map(|kind| Metric::ALL.map(|metric| load(kind, metric))).collect();
    let api =
        |group, version, resources| AggregatedApi { group, version, resources, service: service.clone() };
    vec![
        api(
            "metrics.k8s.io",
            "v1beta1",
            vec![usage("nodes", "NodeMetrics", false), usage("pods", "PodMetrics", true)],
        ),
        api("custom.metrics.k8s.io", "v1beta2", loads.clone()),
        api("custom.metrics.k8s.io", "v1beta1", loads),
    ]
}

/// Why a request gets no metrics.
#[derive(Debug)]
enum Failure {
    /// As this API says it.
    Own(Status),
    /// As the API server that was asked said it.
    Cluster(kube::Error),
}

// === impl MetricsService ===

impl MetricsService {
    /// Answers from what `scraper` and `loads` know; objects and their labels are asked for with `client`.
    pub fn new(
        client: Client,
        scraper: Scraper,
        loads: Loads,
        state: watch::Receiver<Arc<MeshState>>,
    ) -> Self {
        Self { client, scraper, loads, state }
    }

    /// Answers one request.
    pub async fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        match self.value(method, path, query).await {
            Ok(value) => json(StatusCode::OK, &value),
            Err(Failure::Own(status)) => failure(&status),
            Err(Failure::Cluster(kube::Error::Api(status))) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut value = serde_json::to_value(&status).unwrap_or_default();
                value["kind"] = "Status".into();
                value["apiVersion"] = "v1".into();
                json(code, &value)
            }
            Err(Failure::Cluster(error)) => failure(&Status::new(
                503,
                "ServiceUnavailable",
                format!("cannot ask the cluster: {}", chain(&error)),
            )),
        }
    }

    async fn value(&self, method: &Method, path: &str, query: Option<&str>) -> Result<Value, Failure> {
        if method != Method::GET {
            let message = "the server does not allow this method on the requested resource";
            return Err(Failure::Own(Status::new(405, "MethodNotAllowed", message)));
        }
        let asked = Asked::parse(path).map_err(Failure::Own)?;
        let selectors = Selectors::parse(query).map_err(Failure::Own)?;
        match asked {
            Asked::Nodes => self.nodes(&selectors).await,
            Asked::Node(name) => self.node(&name).await,
            Asked::Pods(namespace) => self.pods(namespace.as_deref(), &selectors).await,
            Asked::Pod { namespace, name } => self.pod(PodId { namespace, name }).await,
            Asked::Custom { version, namespace, kind, name, metric } => {
                let metric = Metric::from_name(&metric).ok_or_else(|| {
                    Failure::Own(Status::new(404, "NotFound", format!("the server has no metric {metric:?}")))
                })?;
                self.custom((version, metric), &namespace, kind, name, &selectors).await
            }
        }
    }

    async fn nodes(&self, selectors: &Selectors) -> Result<Value, Failure> {
        self.scraper.freshen().await;
        let nodes = list(Api::<Node>::all(self.client.clone()), selectors).await?;
        let known = self.scraper.store().nodes();
        let items = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            reply::node(name, node.metadata.labels.as_ref(), known.get(name)?)
        });
        Ok(reply::node_list(items.collect()))
    }

    async fn node(&self, name: &str) -> Result<Value, Failure> {
        self.scraper.freshen().await;
        let node = Api::<Node>::all(self.client.clone()).get(name).await.map_err(Failure::Cluster)?;
        let known = self.scraper.store().node(name);
        let metrics = known.and_then(|known| reply::node(name, node.metadata.labels.as_ref(), &known));
        metrics.ok_or_else(|| not_found("nodemetrics.metrics.k8s.io", name))
    }

    async fn pods(&self, namespace: Option<&str>, selectors: &Selectors) -> Result<Value, Failure> {
        self.scraper.freshen().await;
        let api = match namespace {
            Some(namespace) => Api::<Pod>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let pods = list(api, selectors).await?;
        let known = self.scraper.store().nodes();
        let items = pods.iter().filter_map(|pod| {
            let id = PodId::new(pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
            let node = pod.spec.as_ref()?.node_name.as_deref()?;
            reply::pod(&id, pod.metadata.labels.as_ref(), known.get(node)?)
        });
        Ok(reply::pod_list(items.collect()))
    }

    async fn pod(&self, id: PodId) -> Result<Value, Failure> {
        self.scraper.freshen().await;
        let api = Api::<Pod>::namespaced(self.client.clone(), &id.namespace);
        let pod = api.get(&id.name).await.map_err(Failure::Cluster)?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let known = node.and_then(|node| self.scraper.store().node(node));
        let metrics = known.and_then(|known| reply::pod(&id, pod.metadata.labels.as_ref(), &known));
        metrics.ok_or_else(|| not_found("podmetrics.metrics.k8s.io", &id.name))
    }

    async fn custom(
        &self,
        (version, metric): (CustomVersion, Metric),
        namespace: &str,
        kind: Kind,
        name: Named,
        selectors: &Selectors,
    ) -> Result<Value, Failure> {
        let state = self.state.borrow().clone();
        let loads: Vec<(String, Load)> = match kind {
            Kind::Pod => {
                let pods = custom::pods(&state, &self.loads, namespace);
                pods.into_iter().map(|(PodId { name, .. }, load)| (name, load)).collect()
            }
            Kind::Service => {
                let services = custom::services(&state, &self.loads, namespace);
                services.into_iter().map(|(ServiceId { name, .. }, load)| (name, load)).collect()
            }
        };
        let wanted = self.wanted(namespace, kind, &name, selectors).await?;
        let found =
            loads.into_iter().filter(|(name, _)| wanted.as_ref().is_none_or(|names| names.contains(name)));
        let now = Timestamp::now();
        let items: Vec<Value> = found
            .map(|(name, load)| reply::value(version, kind, (namespace, &name), metric, load, now))
            .collect();
        match (&name, items.is_empty()) {
            (Named::One(name), true) => Err(not_found(metric.name(), name)),
            _ => Ok(reply::value_list(version, items)),
        }
    }

    /// The names of the objects that a request means; `None` for all of the namespace.
    async fn wanted(
        &self,
        namespace: &str,
        kind: Kind,
        name: &Named,
        selectors: &Selectors,
    ) -> Result<Option<BTreeSet<String>>, Failure> {
        match name {
            Named::One(name) => Ok(Some(BTreeSet::from([name.clone()]))),
            Named::All if *selectors == Selectors::default() => Ok(None),
            Named::All => {
                let client = self.client.clone();
                let names = match kind {
                    Kind::Pod => names(list(Api::<Pod>::namespaced(client, namespace), selectors).await?),
                    Kind::Service => {
                        names(list(Api::<Service>::namespaced(client, namespace), selectors).await?)
                    }
                };
                Ok(Some(names))
            }
        }
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for MetricsService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // No request to these APIs has a body.
        let (service, (parts, _)) = (self.clone(), request.into_parts());
        async move { Ok(service.answer(&parts.method, parts.uri.path(), parts.uri.query()).await) }.boxed()
    }
}

async fn list<K>(api: Api<K>, selectors: &Selectors) -> Result<Vec<K>, Failure>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = ListParams {
        label_selector: selectors.labels.clone(),
        field_selector: selectors.fields.clone(),
        ..ListParams::default()
    };
    Ok(api.list(&params).await.map_err(Failure::Cluster)?.items)
}

fn names<K: Resource>(objects: Vec<K>) -> BTreeSet<String> {
    objects.iter().filter_map(|object| object.meta().name.clone()).collect()
}

fn not_found(resource: &str, name: &str) -> Failure {
    Failure::Own(Status::new(404, "NotFound", format!("{resource} {name:?} not found")))
}

fn failure(status: &Status) -> Response<Full<Bytes>> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(code, &status.to_json())
}

fn json(code: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
