//! Starting one container: image, environment, volumes, process, hook.

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::time::Instant;
use weft_api::mesh::TrafficMode;

use super::{
    containers::{Prepared, Round},
    env::{self, EnvInputs, ServiceView, expand},
    hooks, resources, volumes,
    worker::{SyncError, Worker},
};
use crate::{
    agent::events::Severity,
    runtime::{
        ContainerSpec, Image, ImageError, ImageOrigin, Limits, Mount, PullPolicy, Role, RuntimeError,
        Security,
    },
};

impl Worker {
    /// Starts an instance, or notes why it cannot be started.
    pub(super) async fn launch(
        &mut self,
        round: &mut Round,
        spec: &Spec,
        role: Role,
        attempt: u32,
    ) -> Result<(), SyncError> {
        let Some(image) = self.image(round, spec, role).await? else { return Ok(()) };
        let container_spec = match self.container_spec(round, spec, role, attempt, image).await {
            Ok(container_spec) => container_spec,
            Err(ConfigError::Sync(error)) => return Err(error),
            Err(ConfigError::Pod(message)) => {
                self.ctx.events.pod(
                    &round.pod,
                    Some(&spec.name),
                    Severity::Warning,
                    "Failed",
                    format!("Error: {message}"),
                );
                self.cannot_run(role, &spec.name, "CreateContainerConfigError", message);
                return Ok(());
            }
        };
        let runtime = self.ctx.runtime.clone();
        let events = self.ctx.events.clone();
        let container = match runtime.start(&round.sandbox, &container_spec).await {
            Ok(container) => container,
            Err(error @ RuntimeError::Unavailable(_)) => return Err(error.into()),
            Err(error) => {
                let message = weft_kit::error::chain(&error);
                events.pod(
                    &round.pod,
                    Some(&spec.name),
                    Severity::Warning,
                    "Failed",
                    format!("Error: {message}"),
                );
                self.cannot_run(role, &spec.name, "CreateContainerError", message);
                return Ok(());
            }
        };
        self.waiting.remove(&(role, spec.name.clone()));
        events.pod(
            &round.pod,
            Some(&spec.name),
            Severity::Normal,
            "Created",
            format!("Created container: {}", spec.name),
        );
        if let Some(reason) = container.exit().and_then(|exit| exit.error.as_ref()) {
            events.pod(&round.pod, Some(&spec.name), Severity::Warning, "Failed", format!("Error: {reason}"));
            return Ok(());
        }
        events.pod(
            &round.pod,
            Some(&spec.name),
            Severity::Normal,
            "Started",
            format!("Started container {}", spec.name),
        );
        if let Some(hook) = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            let checker = self.checker(&round.sandbox, &container, spec);
            let outcome = self.unless_ending(hooks::run(&checker, hook)).await;
            if let Some(Err(failure)) = outcome {
                let text = format!("PostStartHook failed: {}", failure.0);
                events.pod(&round.pod, Some(&spec.name), Severity::Warning, "FailedPostStartHook", text);
                runtime.kill(&container).await?;
            }
        }
        Ok(())
    }

    async fn image(&mut self, round: &Round, spec: &Spec, role: Role) -> Result<Option<Image>, SyncError> {
        let name = spec.image.as_deref().unwrap_or("");
        let policy = PullPolicy::of(spec.image_pull_policy.as_deref(), name);
        let runtime = self.ctx.runtime.clone();
        let events = self.ctx.events.clone();
        let pulling = || {
            events.pod(
                &round.pod,
                Some(&spec.name),
                Severity::Normal,
                "Pulling",
                format!("Pulling image \"{name}\""),
            )
        };
        let Some(result) = self.unless_ending(runtime.ensure_image(name, policy, &pulling)).await else {
            return Ok(None);
        };
        let tell = |severity, reason, text| events.pod(&round.pod, Some(&spec.name), severity, reason, text);
        let error = match result {
            Ok(image) => {
                let text = match image.origin {
                    ImageOrigin::Present => format!("Container image \"{name}\" already present on machine"),
                    ImageOrigin::Pulled(took) => {
                        format!("Successfully pulled image \"{name}\" in {took:.1?}")
                    }
                };
                tell(Severity::Normal, "Pulled", text);
                return Ok(Some(image));
            }
            Err(ImageError::Runtime(error)) => return Err(error.into()),
            Err(error) => error,
        };
        let message = error.to_string();
        let failures = self.waiting.get(&(role, spec.name.clone())).map_or(0, |waiting| waiting.failures);
        let (reason, waiting) = match &error {
            ImageError::InvalidName(_) => ("InspectFailed", "InvalidImageName"),
            ImageError::NeverPull(_) => ("ErrImageNeverPull", "ErrImageNeverPull"),
            // The first failure is shown as such, later ones as what they lead to.
            _ if failures == 0 => ("Failed", "ErrImagePull"),
            _ => ("BackOff", "ImagePullBackOff"),
        };
        tell(Severity::Warning, reason, message.clone());
        self.cannot_run(role, &spec.name, waiting, message);
        Ok(None)
    }

    /// Says once per pod what the runtime does differently from what the pod asks for.
    fn tell_shortcomings(&mut self, pod: &Pod, spec: &Spec, mounts: &[Mount], limits: &Limits) {
        let runtime = self.ctx.runtime.clone();
        let bounded = limits.cpu_millis.is_some() || limits.memory_bytes.is_some();
        if bounded && !runtime.enforces_limits() && self.first_time("limits") {
            let text = "CPU and memory limits are not enforced: control groups cannot be written";
            self.ctx.events.pod(pod, Some(&spec.name), Severity::Warning, "LimitsNotEnforced", text);
        }
        let elsewhere = mounts.iter().find(|mount| !runtime.mounts_at(&mount.target));
        if let Some(mount) = elsewhere
            && self.first_time("mounts")
        {
            let (target, source) = (mount.target.display(), mount.source.display());
            let text = format!(
                "{target} cannot be mounted in the process runtime; the volume is at {source}, and variables \
                 WEFT_VOLUME_NAME tell where each is"
            );
            self.ctx.events.pod(pod, Some(&spec.name), Severity::Warning, "VolumeNotMounted", text);
        }
    }

    async fn container_spec(
        &mut self,
        round: &mut Round,
        spec: &Spec,
        role: Role,
        attempt: u32,
        image: Image,
    ) -> Result<ContainerSpec, ConfigError> {
        let facts = self.ctx.facts(&round.sandbox);
        let prepared = match &mut round.prepared {
            Some(prepared) => prepared,
            empty => {
                let sources = self.sources(&round.pod).await.map_err(ConfigError::Sync)?;
                let directory = self.ctx.pod_dir(&self.pod.uid).join("volumes");
                let volumes = volumes::materialise(&round.pod, &facts, &sources, &directory)
                    .map_err(ConfigError::pod)?;
                self.volumes_at = Instant::now();
                empty.insert(Prepared { sources, volumes })
            }
        };
        let mounts = volumes::mounts(spec, &prepared.volumes).map_err(ConfigError::pod)?;
        let limits = resources::limits(spec);
        self.tell_shortcomings(&round.pod, spec, &mounts, &limits);
        let addressed = self.ctx.runtime.traffic() == TrafficMode::Addressed;
        let view = match addressed {
            true => ServiceView::Sidecar(round.sandbox.sidecar_ip),
            false => ServiceView::ClusterIp,
        };
        let services = self.ctx.service_variables(&round.pod, &self.pod, view);
        let mut extra = vec![("POD_IP".to_owned(), round.sandbox.pod_ip.to_string())];
        if addressed {
            extra.extend(volumes::variables(&prepared.volumes));
        }
        let inputs = EnvInputs {
            pod: &round.pod,
            facts: &facts,
            services: &services,
            sources: &prepared.sources,
            extra: &extra,
        };
        let env = env::build(spec, inputs).map_err(ConfigError::pod)?;
        let expanded = |words: &Option<Vec<String>>| {
            let lookup =
                |name: &str| env.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
            words.iter().flatten().map(|word| expand(word, lookup)).collect::<Vec<_>>()
        };
        Ok(ContainerSpec {
            name: spec.name.clone(),
            role,
            attempt,
            image,
            command: expanded(&spec.command),
            args: expanded(&spec.args),
            working_dir: spec.working_dir.clone().filter(|directory| !directory.is_empty()),
            mounts,
            limits,
            security: security(&round.pod, spec)?,
            env,
        })
    }
}

/// Why a specification could not be made.
enum ConfigError {
    /// Something in the pod or what it refers to is wrong.
    Pod(String),
    /// We could not find out.
    Sync(SyncError),
}

// === impl ConfigError ===

impl ConfigError {
    fn pod(error: impl std::error::Error + 'static) -> Self {
        Self::Pod(weft_kit::error::chain(&error))
    }
}

/// The container's security context over the pod's.
fn security(pod: &Pod, spec: &Spec) -> Result<Security, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = spec.security_context.clone().unwrap_or_default();
    let id = |own: Option<i64>, of_pod: Option<i64>, field: &str| match own.or(of_pod) {
        None => Ok(None),
        Some(id) => {
            u32::try_from(id).map(Some).map_err(|_| ConfigError::Pod(format!("{field} {id} is out of range")))
        }
    };
    let user = id(own.run_as_user, of_pod.run_as_user, "runAsUser")?;
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) && user == Some(0) {
        return Err(ConfigError::Pod("container has runAsNonRoot and would run as root".into()));
    }
    let capabilities = own.capabilities.unwrap_or_default();
    Ok(Security {
        user,
        group: id(own.run_as_group, of_pod.run_as_group, "runAsGroup")?,
        privileged: own.privileged == Some(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
    })
}
