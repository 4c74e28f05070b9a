//! Lifecycle hooks.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::probe::{Checker, Failure};

/// Longest time that a hook may take by itself; callers have shorter ones.
const MAX: Duration = Duration::from_secs(3600);

/// Runs a hook to its end.
pub(super) async fn run(checker: &Checker, hook: &LifecycleHandler) -> Result<(), Failure> {
    if let Some(action) = &hook.exec {
        return checker.exec(action, MAX).await;
    }
    if let Some(action) = &hook.http_get {
        // As the kubelet does, any answer below 400 will do.
        return match checker.http_get(action).await? {
            (status, _) if status < 400 => Ok(()),
            (status, _) => Err(Failure(format!("HTTP hook failed with statuscode: {status}"))),
        };
    }
    if let Some(action) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(Failure("the hook has no action that is supported; use exec, httpGet or sleep".into()))
}
