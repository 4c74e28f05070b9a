//! The service that people look at: greets, and says what `api` said.

use std::sync::Arc;

use http::StatusCode;
use weft_kit::error::chain;

use super::{
    pod_name,
    server::{response, serve},
    upstream::Upstream,
};

pub(super) async fn run() -> anyhow::Result<()> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "good day".to_owned());
    let pod = pod_name();
    let prefix: Arc<str> = format!("{greeting} from {pod}").into();
    let api = Arc::new(Upstream::from_env("api"));
    serve("web", move |_request| {
        let (prefix, api) = (prefix.clone(), api.clone());
        async move {
            match api.get("/").await {
                Ok((StatusCode::OK, body)) => {
                    let said = String::from_utf8_lossy(&body);
                    response(
                        StatusCode::OK,
                        "text/plain",
                        format!("{prefix}; api says {}\n", said.trim_end()),
                    )
                }
                // Whoever counts failures must see this one: a page without its content is no success.
                Ok((status, body)) => {
                    let said = String::from_utf8_lossy(&body);
                    response(
                        StatusCode::BAD_GATEWAY,
                        "text/plain",
                        format!("{prefix}; api answered {status}: {}\n", said.trim_end()),
                    )
                }
                Err(error) => response(
                    StatusCode::BAD_GATEWAY,
                    "text/plain",
                    format!("{prefix}; api is not reachable: {}\n", chain(&error)),
                ),
            }
        }
    })
    .await
}
