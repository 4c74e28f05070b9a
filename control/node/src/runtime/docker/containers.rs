//! Our specifications as the Engine's, and its answers as our records.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig, HostConfigLogConfig,
    NetworkingConfig,
};
use jiff::Timestamp;

use super::{
    engine::{ATTEMPT, CONTAINER, IMAGE, Labels, ROLE, SANDBOX, SIDECAR, role_name, role_of},
    images::OwnImages,
};
use crate::runtime::{Container, ContainerSpec, ContainerState, Exit, PodRef, PodUid, Sandbox};

/// Length of the period for which a CPU quota holds.
const PERIOD_MICROS: u64 = 100_000;
const SCHEME: &str = "docker://";

/// A container that holds the pod's network namespace.
pub(super) fn sandbox(
    labels: &Labels,
    pod: &PodRef,
    sidecar: bool,
    network: &str,
    images: &OwnImages,
) -> ContainerCreateBody {
    let mut own = labels.of_pod(pod);
    own.insert(ROLE.into(), SANDBOX.into());
    own.insert(SIDECAR.into(), sidecar.to_string());
    let endpoint = HashMap::from([(network.to_owned(), EndpointSettings::default())]);
    ContainerCreateBody {
        image: Some(images.reference().into()),
        entrypoint: Some(images.pause()),
        cmd: Some(Vec::new()),
        // Host names longer than the kernel's limit are refused.
        hostname: Some(pod.name.chars().take(63).collect()),
        labels: Some(own),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            log_config: Some(log_config()),
            ..HostConfig::default()
        }),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoint) }),
        ..ContainerCreateBody::default()
    }
}

/// A container in the sandbox's network.
pub(super) fn body(
    labels: &Labels,
    sandbox: &Sandbox,
    spec: &ContainerSpec,
    resolver: Option<&Path>,
) -> ContainerCreateBody {
    let mut own = labels.of_pod(&sandbox.pod);
    own.insert(ROLE.into(), role_name(spec.role).into());
    own.insert(CONTAINER.into(), spec.name.clone());
    own.insert(ATTEMPT.into(), spec.attempt.to_string());
    own.insert(IMAGE.into(), spec.image.name.clone());
    let entrypoint =
        if spec.command.is_empty() { spec.image.entrypoint.clone() } else { spec.command.clone() };
    let bind = |source: &Path, target: &Path, read_only: bool| {
        format!("{}:{}{}", source.display(), target.display(), if read_only { ":ro" } else { "" })
    };
    let mut binds: Vec<String> =
        spec.mounts.iter().map(|mount| bind(&mount.source, &mount.target, mount.read_only)).collect();
    binds.extend(resolver.map(|file| bind(file, Path::new("/etc/resolv.conf"), true)));
    let user = match (spec.security.user, spec.security.group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => Some(format!(":{group}")),
        (None, None) => None,
    };
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let memory = spec.limits.memory_bytes.map(signed);
    let list = |items: &[String]| (!items.is_empty()).then(|| items.to_vec());
    ContainerCreateBody {
        image: Some(spec.image.id.trim_start_matches(SCHEME).to_owned()),
        entrypoint: (!entrypoint.is_empty()).then_some(entrypoint),
        cmd: list(&spec.args),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: spec.working_dir.clone(),
        user,
        labels: Some(own),
        host_config: Some(HostConfig {
            network_mode: Some(format!("container:{}", sandbox.handle)),
            binds: Some(binds),
            memory,
            // Without swap on top: the limit is the limit.
            memory_swap: memory,
            cpu_period: spec.limits.cpu_millis.map(|_| signed(PERIOD_MICROS)),
            cpu_quota: spec.limits.cpu_millis.map(|millis| signed((millis * PERIOD_MICROS / 1000).max(1000))),
            cpu_shares: spec.limits.cpu_request_millis.map(|millis| signed((millis * 1024 / 1000).max(2))),
            privileged: Some(spec.security.privileged),
            readonly_rootfs: Some(spec.security.read_only_root),
            cap_add: list(&spec.security.add_capabilities),
            cap_drop: list(&spec.security.drop_capabilities),
            log_config: Some(log_config()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// What the Engine knows of a container of ours; `None` for one that was never started.
pub(super) fn record(uid: &PodUid, found: &ContainerInspectResponse) -> Option<Container> {
    let config = found.config.as_ref()?;
    let labels = config.labels.as_ref()?;
    let state = found.state.as_ref()?;
    let time = |text: &Option<String>| {
        // The Engine writes the year 1 for "never".
        let time = text.as_ref()?.parse::<Timestamp>().ok()?;
        (time.as_second() > 0).then_some(time)
    };
    let started_at = time(&state.started_at);
    let our_state = if state.running == Some(true) {
        ContainerState::Running { started_at: started_at? }
    } else {
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
        ContainerState::Exited(Exit {
            code,
            signal: None,
            oom_killed: state.oom_killed == Some(true),
            error: state.error.clone().filter(|error| !error.is_empty()),
            started_at: Some(started_at?),
            finished_at: time(&state.finished_at)?,
        })
    };
    Some(Container {
        pod: uid.clone(),
        name: labels.get(CONTAINER)?.clone(),
        role: role_of(labels.get(ROLE)?)?,
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
        id: format!("{SCHEME}{}", found.id.as_ref()?),
        image: labels.get(IMAGE)?.clone(),
        image_id: format!("{SCHEME}{}", found.image.as_ref()?),
        state: our_state,
    })
}

/// The Engine's id of a container.
pub(super) fn engine_id(container: &Container) -> &str {
    container.id.trim_start_matches(SCHEME)
}

/// 50 MiB of logs per container at most, as in the process runtime.
fn log_config() -> HostConfigLogConfig {
    let options =
        [("max-size", "10m"), ("max-file", "5")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".into()), config: Some(options.into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(state: serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(json!({
            "Id": "abc", "Image": "sha256:1", "State": state,
            "Config": {"Labels": {CONTAINER: "c", ROLE: "app", ATTEMPT: "2", IMAGE: "busybox"}}
        }))
        .expect("an answer")
    }

    fn uid() -> PodUid {
        PodUid::new("u").expect("valid")
    }

    #[test]
    fn a_running_container_is_read_from_its_labels() {
        let state = json!({"Running": true, "StartedAt": "2026-11-23T21:00:00.123456789Z", "FinishedAt": "0001-01-01T00:00:00Z"});
        let container = record(&uid(), &found(state)).expect("ours");
        assert_eq!(
            (container.name.as_str(), container.attempt, container.image.as_str()),
            ("c", 2, "busybox")
        );
        assert!(container.is_running());
        assert_eq!(engine_id(&container), "abc");
    }

    #[test]
    fn an_end_has_its_code_and_its_cause() {
        let state = json!({"Running": false, "ExitCode": 137, "OOMKilled": true,
            "StartedAt": "2026-11-23T21:00:00Z", "FinishedAt": "2026-11-23T21:00:01Z"});
        let container = record(&uid(), &found(state)).expect("ours");
        let exit = container.exit().expect("ended");
        assert_eq!((exit.code, exit.oom_killed), (137, true));
    }

    #[test]
    fn a_container_that_was_never_started_has_no_record() {
        let state = json!({"Running": false, "Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"});
        assert_eq!(record(&uid(), &found(state)), None);
    }
}
