//! The service behind `web`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::StatusCode;

use super::{
    pod_name,
    server::{response, serve},
};

pub(super) async fn run() -> anyhow::Result<()> {
    let pod: Arc<str> = pod_name().into();
    let answered = Arc::new(AtomicU64::new(0));
    serve("api", move |_request| {
        let (pod, count) = (pod.clone(), answered.fetch_add(1, Ordering::Relaxed) + 1);
        async move {
            let body = serde_json::json!({ "pod": &*pod, "answered": count });
            response(StatusCode::OK, "application/json", format!("{body}\n"))
        }
    })
    .await
}
