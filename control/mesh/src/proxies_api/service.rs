//! Requests to the API of the proxies.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use weft_api::status::Status;
use weft_xds::server::SnapshotCache;

use super::{
    GROUP, VERSION, object,
    table::{self, Include},
};
use crate::metrics_api::{AggregatedApi, ApiResource};

/// A [`tower::Service`] that answers requests about proxies; clones share everything.
#[derive(Clone)]
pub struct ProxiesService {
    cache: SnapshotCache,
}

/// The API group, answered from `cache`.
pub fn api(cache: &SnapshotCache) -> AggregatedApi<ProxiesService> {
    let resource = ApiResource {
        name: "proxies".to_owned(),
        singular: "proxy",
        kind: "Proxy",
        namespaced: false,
        verbs: &["get", "list"],
    };
    let service = ProxiesService { cache: cache.clone() };
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
    ) -> Response<Full<Bytes>> {
        match self.value(method, path, query, headers) {
            Ok(value) => respond(StatusCode::OK, &value),
            Err(status) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                respond(code, &status.to_json())
            }
        }
    }

    fn value(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Value, Status> {
        if method != Method::GET {
            let message = "the server does not allow this method on the requested resource";
            return Err(Status::new(405, "MethodNotAllowed", message));
        }
        let name = asked(path)?;
        let form = table_version(headers);
        let include = include(query)?;
        let now = SystemTime::now();
        match (name, form) {
            (None, None) => {
                let items: Vec<Value> = self.cache.all_books().iter().map(object::proxy).collect();
                Ok(json!({ "kind": "ProxyList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {},
                           "items": items }))
            }
            (None, Some(version)) => Ok(table::table(version, &self.cache.all_books(), include, now)),
            (Some(name), form) => {
                let books = self.cache.books(&name).ok_or_else(|| {
                    Status::new(404, "NotFound", format!("proxies.{GROUP} \"{name}\" not found"))
                })?;
                Ok(match form {
                    None => object::proxy(&books),
                    Some(version) => table::table(version, &[books], include, now),
                })
            }
        }
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for ProxiesService {
    type Response = Response<Full<Bytes>>;
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

fn include(query: Option<&str>) -> Result<Include, Status> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    match pairs.find(|(key, _)| *key == "includeObject").map(|(_, value)| value) {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("None") => Ok(Include::Nothing),
        Some("Object") => Ok(Include::Object),
        Some(other) => Err(Status::bad_request(format!(
            "invalid includeObject value: {other:?}, must be None, Metadata or Object"
        ))),
    }
}

fn respond(code: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
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
