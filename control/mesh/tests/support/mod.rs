//! An API server that holds what a test puts there, and a small HTTP client and server.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture, stream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// Objects by path of their collection. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    collections: BTreeMap<String, BTreeMap<String, Value>>,
    texts: BTreeMap<String, Box<dyn FnMut() -> String + Send>>,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// What was created, by path.
    created: Vec<(String, Value)>,
}

// === impl FakeApi ===

impl FakeApi {
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| api.clone().answer(request));
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object of a collection such as `/api/v1/services`, and tells the watches.
    pub(crate) fn put(&self, collection: &str, mut object: Value) {
        let mut inner = self.inner.lock();
        inner.revision += 1;
        object["metadata"]["resourceVersion"] = inner.revision.to_string().into();
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let objects = inner.collections.entry(collection.to_owned()).or_default();
        let verb = if objects.insert(name, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let line = Bytes::from(json!({ "type": verb, "object": object }).to_string() + "\n");
        inner.watches.retain(|(path, watch)| path != collection || watch.send(line.clone()).is_ok());
    }

    /// Answers a path with the text that `make` gives, anew each time.
    pub(crate) fn text(&self, path: &str, make: impl FnMut() -> String + Send + 'static) {
        self.inner.lock().texts.insert(path.to_owned(), Box::new(make));
    }

    /// What was created, as path and object.
    pub(crate) fn created(&self) -> Vec<(String, Value)> {
        self.inner.lock().created.clone()
    }

    fn answer(
        self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, Infallible>> {
        async move {
            let (parts, body) = request.into_parts();
            let (path, query) =
                (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
            if parts.method == http::Method::POST {
                let body = body.collect().await.expect("a body in memory").to_bytes();
                let object: Value = serde_json::from_slice(&body).expect("JSON");
                self.inner.lock().created.push((path, object));
                return Ok(Response::new(Full::new(body).boxed_unsync()));
            }
            if parts.method == http::Method::PATCH {
                let body = body.collect().await.expect("a body in memory").to_bytes();
                return Ok(self.patch_status(&path, &serde_json::from_slice(&body).expect("JSON")));
            }
            Ok(self.get(&path, &query))
        }
        .boxed()
    }

    /// Of `/api/v1/namespaces/NS/services/NAME/status`: conditions are merged by their type.
    fn patch_status(&self, path: &str, patch: &Value) -> Response<ResponseBody> {
        let segments: Vec<&str> = path.split('/').collect();
        let [prefix @ .., "namespaces", _, plural, name, "status"] = segments.as_slice() else {
            panic!("{path} is not the status of an object");
        };
        let collection = join(prefix, plural);
        let mut object = self.object(&collection, name).expect("the object is there");
        let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        for new in patch["status"]["conditions"].as_array().expect("conditions") {
            conditions.retain(|old| old["type"] != new["type"]);
            conditions.push(new.clone());
        }
        object["status"]["conditions"] = conditions.into();
        self.put(&collection, object.clone());
        Response::new(Full::new(Bytes::from(object.to_string())).boxed_unsync())
    }

    /// An object as it is now.
    pub(crate) fn object(&self, collection: &str, name: &str) -> Option<Value> {
        self.inner.lock().collections.get(collection)?.get(name).cloned()
    }

    fn get(&self, path: &str, query: &str) -> Response<ResponseBody> {
        let mut inner = self.inner.lock();
        if let Some(make) = inner.texts.get_mut(path) {
            return Response::new(Full::new(Bytes::from(make())).boxed_unsync());
        }
        if query.contains("watch=true") {
            let (sender, receiver) = mpsc::unbounded_channel();
            inner.watches.push((path.to_owned(), sender));
            let lines = stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|line| (Ok(http_body::Frame::data(line)), receiver))
            });
            return Response::new(StreamBody::new(lines).boxed_unsync());
        }
        // `/api/v1/namespaces/NS/pods`, with a name or not: the collections here are those of all namespaces.
        let segments: Vec<&str> = path.split('/').collect();
        let (collection, namespace, name) = match segments.as_slice() {
            [prefix @ .., "namespaces", namespace, plural] => (join(prefix, plural), Some(*namespace), None),
            [prefix @ .., "namespaces", namespace, plural, name] => {
                (join(prefix, plural), Some(*namespace), Some(*name))
            }
            [prefix @ .., plural, name] if inner.collections.contains_key(&join(prefix, plural)) => {
                (join(prefix, plural), None, Some(*name))
            }
            _ => (path.to_owned(), None, None),
        };
        let selected = |object: &&Value| {
            namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
                && query.split('&').filter_map(|pair| pair.strip_prefix("labelSelector=")).all(|selector| {
                    let (key, value) = selector.split_once("%3D").expect("key=value");
                    object["metadata"]["labels"][key] == value
                })
        };
        let objects: Vec<&Value> = inner
            .collections
            .get(&collection)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(selected)
            .collect();
        let answer = match name {
            None => {
                json!({ "metadata": { "resourceVersion": inner.revision.to_string() }, "items": objects })
            }
            Some(name) => match objects.into_iter().find(|object| object["metadata"]["name"] == name) {
                Some(object) => object.clone(),
                None => {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                        "reason": "NotFound", "code": 404, "message": format!("{name:?} not found") });
                    let mut response =
                        Response::new(Full::new(Bytes::from(status.to_string())).boxed_unsync());
                    *response.status_mut() = http::StatusCode::NOT_FOUND;
                    return response;
                }
            },
        };
        Response::new(Full::new(Bytes::from(answer.to_string())).boxed_unsync())
    }
}

fn join(prefix: &[&str], plural: &str) -> String {
    format!("{}/{plural}", prefix.join("/"))
}

pub(crate) fn service(name: &str, cluster_ip: &str, ports: Value) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": name, "uid": format!("uid-{name}") },
        "spec": { "clusterIP": cluster_ip, "ports": ports },
    })
}

/// A slice with one endpoint, the pod `pod` at `address`.
pub(crate) fn slice(service: &str, pod: &str, address: SocketAddr, ready: bool) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": format!("{service}-1"),
                      "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": address.port() }],
        "endpoints": [{ "addresses": [address.ip().to_string()], "conditions": { "ready": ready }, "nodeName": "n1",
                        "targetRef": { "kind": "Pod", "name": pod, "namespace": "default" } }],
    })
}

pub(crate) fn pod(name: &str, address: &str, port: u16) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": name, "uid": format!("uid-{name}"), "labels": { "app": "web" } },
        "spec": { "nodeName": "n1", "containers": [{ "name": "web", "ports": [{ "containerPort": port }] }] },
        "status": { "podIP": address },
    })
}

/// An HTTP/1.1 server that greets; it lives as long as the runtime.
pub(crate) async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet(stream));
        }
    });
    address
}

async fn greet(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
                return;
            }
        }
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: greeter\r\n\r\nhello").await;
    }
}

/// The whole response to `GET /`, or nothing if there is no server.
pub(crate) async fn get(address: SocketAddr) -> Option<String> {
    let mut stream = BufReader::new(TcpStream::connect(address).await.ok()?);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.ok()?;
    // Up to the end of the body, not of the connection, which servers may keep for a while.
    let (mut response, mut length) = (String::new(), 0);
    while !response.ends_with("\r\n\r\n") {
        let start = response.len();
        if stream.read_line(&mut response).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = response[start..].to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(response + &String::from_utf8_lossy(&body))
}

/// Waits until `check` gives something; panics with `what` after a while.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
