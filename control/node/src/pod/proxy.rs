//! The pod's sidecar: first to start, last to stop.

use std::{
    fs::Permissions,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use weft_api::mesh::{ADMIN_PORT, ProxyId, SIDECAR_UID, TrafficMode};

use super::{
    decide::{Decision, Latest, decide, restarts},
    status::RestartPolicy,
    worker::{SyncError, Worker},
};
use crate::{
    agent::events::Severity,
    runtime::{
        Container, ContainerSpec, ImageError, Limits, Mount, PullPolicy, Role, RuntimeError, Sandbox,
        Security,
    },
    sidecar::{Admin, BootstrapInputs, CONTAINER, Subject, TokenFile, bootstrap, wanted},
};

/// How often a sidecar that is late is asked again.
const LATE_POLL: std::time::Duration = std::time::Duration::from_millis(200);
const IMAGE: &str = "weft.dev/proxy:latest";
const BOOTSTRAP: &str = "bootstrap.json";
/// Where a container sees its bootstrap file.
const BOOTSTRAP_MOUNT: &str = "/etc/weft/bootstrap.json";
/// Keeps the sidecar's last good configuration, for a start while mesh control is away.
const LAST_GOOD: &str = "last-good";
/// Where a container sees it.
const LAST_GOOD_MOUNT: &str = "/var/lib/weft/last-good";
/// Directory of the token with which the sidecar asks mesh control.
const CREDENTIALS: &str = "credentials";
const TOKEN: &str = "token";
/// Where a container sees the directory; not the file, which is replaced.
const CREDENTIALS_MOUNT: &str = "/var/run/weft/credentials";

impl Worker {
    /// Sees to it that the sidecar runs. `true`: it serves, or the pod has none.
    ///
    /// With `wait` the call lasts until it serves or is late; that is for pods of which nothing else runs yet.
    pub(super) async fn ensure_sidecar(
        &mut self,
        pod: &Pod,
        sandbox: &Sandbox,
        records: &[Container],
        wait: bool,
    ) -> Result<bool, SyncError> {
        if !wanted(pod) {
            return Ok(true);
        }
        self.renew_token(pod).await?;
        let latest = Latest::find(records, &self.pod.uid, Role::Sidecar, CONTAINER, None);
        let latest_container = latest.as_ref().map(|latest| latest.container.clone());
        let always = restarts(RestartPolicy::Always, Role::Sidecar);
        let container =
            match decide(CONTAINER, IMAGE, latest.as_ref(), always, &mut self.backoff, Timestamp::now()) {
                Decision::Keep | Decision::Replace | Decision::Done => latest_container,
                Decision::Start { attempt } => self.start_sidecar(pod, sandbox, attempt).await?,
                Decision::Wait { until } => {
                    self.look_again_at(until);
                    None
                }
            };
        let Some(container) = container.filter(Container::is_running) else {
            self.ready_sidecar = None;
            return Ok(false);
        };
        if self.ready_sidecar.as_ref() == Some(&container.id) {
            return Ok(true);
        }
        let admin = Admin::new(SocketAddr::from((sandbox.sidecar_ip, ADMIN_PORT)));
        let bound = if wait { self.ctx.timing.sidecar_ready } else { std::time::Duration::ZERO };
        // Also ends when the sidecar itself does, which the next look sees.
        let ended = async {
            while self.sidecar_runs(&container).await {
                tokio::time::sleep(LATE_POLL).await;
            }
            false
        };
        let waiting = async {
            tokio::select! {
                ready = admin.until_ready(bound) => ready,
                ended = ended => ended,
            }
        };
        match self.unless_ending(waiting).await {
            Some(true) => {
                self.ready_sidecar = Some(container.id);
                Ok(true)
            }
            Some(false) => {
                if wait && self.first_time("late sidecar") {
                    let text = format!(
                        "sidecar is not ready after {bound:?}; is the mesh control service reachable?"
                    );
                    self.ctx.events.pod(pod, None, Severity::Warning, "Unhealthy", text);
                }
                self.look_again_in(LATE_POLL);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    async fn sidecar_runs(&self, container: &Container) -> bool {
        match self.ctx.runtime.containers(&self.pod.uid).await {
            Ok(records) => records.iter().any(|record| record.id == container.id && record.is_running()),
            Err(_) => true,
        }
    }

    async fn renew_token(&mut self, pod: &Pod) -> Result<(), SyncError> {
        let owner = (self.ctx.runtime.traffic() == TrafficMode::Redirect).then_some(SIDECAR_UID);
        let path = self.ctx.pod_dir(&self.pod.uid).join(CREDENTIALS).join(TOKEN);
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let subject = Subject {
            namespace: self.pod.namespace.clone(),
            account: account.unwrap_or_else(|| "default".to_owned()),
            kind: "Pod",
            name: self.pod.name.clone(),
            uid: Some(self.pod.uid.to_string()),
        };
        let token = self.sidecar_token.get_or_insert_with(|| TokenFile::new(subject, path, owner));
        let again = token.renew(&self.ctx.client).await.map_err(SyncError::Token)?;
        self.look_again_in(again);
        Ok(())
    }

    async fn start_sidecar(
        &mut self,
        pod: &Pod,
        sandbox: &Sandbox,
        attempt: u32,
    ) -> Result<Option<Container>, SyncError> {
        let runtime = self.ctx.runtime.clone();
        let redirect = runtime.traffic() == TrafficMode::Redirect;
        let host = if redirect { Ipv4Addr::UNSPECIFIED } else { sandbox.sidecar_ip };
        let file = bootstrap(&BootstrapInputs {
            id: ProxyId::Sidecar { namespace: self.pod.namespace.clone(), pod: self.pod.name.clone() },
            node: self.ctx.node.name.clone(),
            traffic: runtime.traffic(),
            pod: Some((sandbox.pod_ip, sandbox.sidecar_ip)),
            admin: SocketAddr::from((host, ADMIN_PORT)),
            ads: self.ctx.ads.clone(),
        });
        let directory = self.ctx.pod_dir(&self.pod.uid);
        let path = directory.join(BOOTSTRAP);
        let last_good = directory.join(LAST_GOOD);
        std::fs::create_dir_all(&last_good)
            .and_then(|()| std::fs::write(&path, file.to_string()))
            .map_err(SyncError::Bootstrap)?;
        if redirect {
            // Its keys are for the sidecar only, which runs as a user of its own.
            let given = std::os::unix::fs::chown(&last_good, Some(SIDECAR_UID), Some(SIDECAR_UID))
                .and_then(|()| std::fs::set_permissions(&last_good, Permissions::from_mode(0o700)));
            if let Err(error) = given {
                tracing::warn!(%error, directory = %last_good.display(), "the sidecar cannot keep its configuration");
            }
        }
        let image = match runtime.ensure_image(IMAGE, PullPolicy::Never, &|| {}).await {
            Ok(image) => image,
            Err(ImageError::Runtime(error)) => return Err(error.into()),
            Err(error) => return Err(RuntimeError::Failed(error.to_string()).into()),
        };
        let seen = if redirect { BOOTSTRAP_MOUNT.to_owned() } else { path.to_string_lossy().into_owned() };
        let kept =
            if redirect { LAST_GOOD_MOUNT.to_owned() } else { last_good.to_string_lossy().into_owned() };
        let credentials = directory.join(CREDENTIALS);
        let token = if redirect { CREDENTIALS_MOUNT.into() } else { credentials.clone() }.join(TOKEN);
        let token = token.to_string_lossy();
        let concurrency = self.ctx.sidecar_concurrency.to_string();
        let args = [
            "-c",
            &seen,
            "--concurrency",
            &concurrency,
            "--last-good-config-path",
            &kept,
            "--xds-token-path",
            &token,
        ];
        let spec = ContainerSpec {
            name: CONTAINER.into(),
            role: Role::Sidecar,
            attempt,
            image,
            command: Vec::new(),
            args: args.map(str::to_owned).into(),
            env: Vec::new(),
            working_dir: None,
            mounts: if redirect {
                vec![
                    Mount { source: path, target: BOOTSTRAP_MOUNT.into(), read_only: true },
                    Mount { source: last_good, target: LAST_GOOD_MOUNT.into(), read_only: false },
                    Mount { source: credentials, target: CREDENTIALS_MOUNT.into(), read_only: true },
                ]
            } else {
                Vec::new()
            },
            limits: Limits::default(),
            security: Security {
                // By its user the capture rules tell the sidecar's own traffic from the pod's.
                user: redirect.then_some(SIDECAR_UID),
                group: redirect.then_some(SIDECAR_UID),
                ..Security::default()
            },
        };
        let container = runtime.start(sandbox, &spec).await?;
        match container.exit() {
            None => tracing::debug!(attempt, "sidecar started"),
            Some(exit) => {
                let text = format!(
                    "sidecar cannot be started: {}",
                    exit.error.as_deref().unwrap_or("it ended at once")
                );
                self.ctx.events.pod(pod, None, Severity::Warning, "Failed", text);
                self.look_again_in(LATE_POLL);
            }
        }
        self.forget_old(Role::Sidecar, CONTAINER, attempt).await?;
        Ok(Some(container))
    }
}
