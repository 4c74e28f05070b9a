//! Requests to the API of the proxies.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weft_api::status::Status;
use weft_xds::server::SnapshotCache;

use super::{GROUP, VERSION, feed::Feed, object, params::Params, table, watch::Watch};
use crate::metrics_api::{AggregatedApi, ApiResource};

/// The body of an answer; that of a watch goes on for as long as it is to.
pub type ProxiesBody = UnsyncBoxBody<Bytes, Infallible>;

/// A [`tower::Service`] that answers requests about proxies; clones share everything.
#[derive(Clone)]
pub struct ProxiesService {
    cache: SnapshotCache,
    feed: Arc<Feed>,
    shutdown: CancellationToken,
}

/// The API group, answered from `cache`; watches end with `shutdown`. The versions of two are not the same: there is to be
/// one for each control.
pub fn api(cache: &SnapshotCache, shutdown: CancellationToken) -> AggregatedApi<ProxiesService> {
    let resource = ApiResource {
        name: "proxies".to_owned(),
        singular: "proxy",
        kind: "Proxy",
        namespaced: false,
        verbs: &["get", "list", "watch"],
    };
    let source = cache.clone();
    let feed = Arc::new(Feed::new(move || source.all_books()));
    let service = ProxiesService { cache: cache.clone(), feed, shutdown };
    AggregatedApi { group: GROUP, version: VERSION, resources: vec![resource], service }
}

// === impl ProxiesService ===

impl ProxiesService {
    /// Answers one request.
    pub fn answer(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Response<ProxiesBody> {
        match self.try_answer(method, path, query, headers) {
            Ok(response) => response,
            Err(status) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                respond(code, &status.to_json())
            }
        }
    }

    fn try_answer(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Response<ProxiesBody>, Status> {
        if method != Method::GET {
            let message = "the server does not allow this method on the requested resource";
            return Err(Status::new(405, "MethodNotAllowed", message));
        }
        let name = asked(path)?;
        let form = table_version(headers);
        let params = Params::parse(query)?;
        if params.watch && name.is_none() {
            let watch = Watch::new(self.feed.clone(), params, form, self.shutdown.clone())?;
            return Ok(json_response(StatusCode::OK, StreamBody::new(watch.frames()).boxed_unsync()));
        }
        let value = match name {
            None => {
                let (mut proxies, revision) = self.feed.list();
                proxies.retain(|(books, _)| params.selection.selects(&books.node.id));
                match form {
                    Some(version) => table::table(version, &proxies, revision, params.include, true),
                    None => {
                        let items = proxies.iter().map(|(books, changed)| object::proxy(books, *changed));
                        json!({ "kind": "ProxyList", "apiVersion": format!("{GROUP}/{VERSION}"),
                                "metadata": { "resourceVersion": revision.to_string() },
                                "items": items.collect::<Vec<Value>>() })
                    }
                }
            }
            Some(name) => {
                let books = self.cache.books(&name).ok_or_else(|| {
                    Status::new(404, "NotFound", format!("proxies.{GROUP} \"{name}\" not found"))
                })?;
                let changed = self.feed.revision_of(&name);
                match form {
                    None => object::proxy(&books, changed),
                    Some(version) => {
                        table::table(version, &[(books, changed)], changed, params.include, true)
                    }
                }
            }
        };
        Ok(respond(StatusCode::OK, &value))
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for ProxiesService {
    type Response = Response<ProxiesBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // No request to this API has a body.
        let (service, (parts, _)) = (self.clone(), request.into_parts());
        async move {
            let (path, query) = (parts.uri.path(), parts.uri.query());
            Ok(service.answer(&parts.method, path, query, &parts.headers))
        }
        .boxed()
    }
}

/// The proxy's id; `None` for all. Ids are free text, so that nothing but a slash is wrong.
fn asked(path: &str) -> Result<Option<String>, Status> {
    let below = path
        .strip_prefix(&format!("/apis/{GROUP}/{VERSION}/proxies"))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .ok_or_else(Status::no_such_path)?;
    match below.trim_matches('/') {
        "" => Ok(None),
        name if name.contains('/') => Err(Status::no_such_path()),
        name => {
            let name = percent_decode_str(name).decode_utf8().map_err(|_| Status::no_such_path())?;
            Ok(Some(name.into_owned()))
        }
    }
}

/// The version of the table that the client prefers to the objects; `None` if it wants those.
fn table_version(headers: &HeaderMap) -> Option<&'static str> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let first = texts.flat_map(|text| text.split(',')).map(str::trim).find_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let media = parts.next()?;
        let parts: Vec<&str> = parts.collect();
        let table = parts.contains(&"as=Table") && parts.contains(&"g=meta.k8s.io");
        match media {
            "application/json" if table && parts.contains(&"v=v1") => Some(Some("v1")),
            "application/json" if table && parts.contains(&"v=v1beta1") => Some(Some("v1beta1")),
            "application/json" | "application/*" | "*/*" if !element.contains("as=") => Some(None),
            _ => None,
        }
    });
    first.flatten()
}

fn respond(code: StatusCode, value: &Value) -> Response<ProxiesBody> {
    json_response(code, Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn json_response(code: StatusCode, body: ProxiesBody) -> Response<ProxiesBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_path_names_one_proxy_or_all() {
        let all = "/apis/mesh.weft.dev/v1alpha1/proxies";
        assert_eq!(asked(all), Ok(None));
        assert_eq!(asked(&format!("{all}/")), Ok(None));
        assert_eq!(asked(&format!("{all}/sidecar~default~a")), Ok(Some("sidecar~default~a".into())));
        assert_eq!(asked(&format!("{all}/a%20b")), Ok(Some("a b".into())));
        for path in
            ["/apis/mesh.weft.dev/v1alpha1/proxiesx", "/apis/mesh.weft.dev/v1alpha1/proxies/a/status", ""]
        {
            assert_eq!(asked(path).unwrap_err().code, 404, "{path}");
        }
    }

    #[test]
    fn kubectl_gets_a_table_and_others_the_objects() {
        let form = |accept: &'static str| {
            table_version(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Some("v1"));
        assert_eq!(form("application/json;as=Table;g=meta.k8s.io;v=v1beta1, */*"), Some("v1beta1"));
        assert_eq!(form("application/json"), None);
        assert_eq!(form("application/json;as=Chair;v=v1;g=meta.k8s.io,application/json"), None);
        assert_eq!(form("text/html"), None);
        assert_eq!(table_version(&HeaderMap::new()), None);
    }
}
