//! Serves what the mesh control answers under the API server's address.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};
use weft_apiserver::{AggregatedResource, ApiServer, Body};
use weft_mesh::metrics_api::AggregatedApi;

/// Hands the requests of one API group to the mesh control. Each side has its own words for the same thing, since
/// neither crate knows the other.
pub(super) fn aggregate<S, B>(api: &ApiServer, aggregated: AggregatedApi<S>)
where
    B: BodyExt<Data = Bytes, Error = Infallible> + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let resources = aggregated
        .resources
        .into_iter()
        .map(|resource| AggregatedResource {
            name: resource.name,
            singular: resource.singular.to_owned(),
            kind: resource.kind.to_owned(),
            namespaced: resource.namespaced,
            verbs: resource.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        })
        .collect();
    let service = ServiceExt::<Request<Body>>::map_response(aggregated.service, |response| {
        response.map(|body: B| body.map_err(|never| match never {}).boxed_unsync())
    });
    api.aggregate(aggregated.group, aggregated.version, resources, BoxCloneSyncService::new(service));
}
