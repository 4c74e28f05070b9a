//! What to do about one container. Pure: it sees the latest instance and says what comes next.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{backoff::RestartBackoff, status::RestartPolicy};
use crate::runtime::{Container, ContainerState, Exit, PodUid, Role};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It runs as it should.
    Keep,
    /// It runs, but not what it should.
    Replace,
    /// A new instance is due.
    Start { attempt: u32 },
    /// A new instance is due at this moment.
    Wait { until: Timestamp },
    /// It has ended and stays so.
    Done,
}

/// Decides about a container that should run `image`.
pub(super) fn decide(
    name: &str,
    image: &str,
    latest: Option<&Latest>,
    restarts: impl FnOnce(i32) -> bool,
    backoff: &mut RestartBackoff,
    now: Timestamp,
) -> Decision {
    let Some(Latest { container, recalled }) = latest else { return Decision::Start { attempt: 0 } };
    let next = Decision::Start { attempt: container.attempt.saturating_add(1) };
    let exit = match &container.state {
        ContainerState::Running { .. } if container.image == image => return Decision::Keep,
        ContainerState::Running { .. } => return Decision::Replace,
        ContainerState::Exited(exit) => exit,
    };
    if !restarts(exit.code) {
        return Decision::Done;
    }
    // What we know only from the API was ended with the agent or the machine, not by a fault of its own.
    if *recalled {
        return next;
    }
    match backoff.restart_at(name, container.attempt, exit) {
        until if until > now => Decision::Wait { until },
        _ => next,
    }
}

/// The latest instance of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Latest {
    pub(super) container: Container,
    /// The runtime has no record; this is what was reported to the API.
    pub(super) recalled: bool,
}

// === impl Latest ===

impl Latest {
    /// The instance with the highest number, or else the one that was reported last.
    pub(super) fn find(
        records: &[Container],
        uid: &PodUid,
        role: Role,
        name: &str,
        reported: Option<&ContainerStatus>,
    ) -> Option<Self> {
        let of_name = records.iter().filter(|container| container.role == role && container.name == name);
        match of_name.max_by_key(|container| container.attempt) {
            Some(container) => Some(Self { container: container.clone(), recalled: false }),
            None => recall(uid, role, name, reported?).map(|container| Self { container, recalled: true }),
        }
    }
}

/// An instance that was reported once and of which nothing is left.
fn recall(uid: &PodUid, role: Role, name: &str, reported: &ContainerStatus) -> Option<Container> {
    let id = reported.container_id.clone()?;
    let state = reported.state.clone().unwrap_or_default();
    let last = reported.last_state.as_ref().and_then(|state| state.terminated.clone());
    let terminated = state.terminated.or(if state.waiting.is_some() { last } else { None });
    let exit = match terminated {
        Some(terminated) => Exit {
            code: terminated.exit_code,
            signal: terminated.signal,
            oom_killed: terminated.reason.as_deref() == Some("OOMKilled"),
            error: terminated.message.clone(),
            started_at: terminated.started_at.map(|time| time.0),
            finished_at: terminated.finished_at.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        },
        None => Exit {
            code: 137,
            signal: None,
            oom_killed: false,
            error: Some("the container could not be found; its node was restarted".into()),
            started_at: state.running.as_ref().and_then(|running| Some(running.started_at.as_ref()?.0)),
            finished_at: Timestamp::now(),
        },
    };
    Some(Container {
        pod: uid.clone(),
        name: name.to_owned(),
        role,
        attempt: u32::try_from(reported.restart_count).unwrap_or(0),
        id,
        image: reported.image.clone(),
        image_id: reported.image_id.clone(),
        state: ContainerState::Exited(exit),
    })
}

/// For `decide`: the policy's answer for a role.
pub(super) fn restarts(policy: RestartPolicy, role: Role) -> impl Fn(i32) -> bool {
    move |code| match role {
        Role::App => policy.restarts(code),
        Role::Init => policy.restarts_init(code),
        Role::Sidecar => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    fn latest(attempt: u32, state: ContainerState) -> Latest {
        let container = Container {
            pod: PodUid::new("u").expect("valid"),
            name: "c".into(),
            role: Role::App,
            attempt,
            id: "id".into(),
            image: "image".into(),
            image_id: String::new(),
            state,
        };
        Latest { container, recalled: false }
    }

    fn ended(code: i32) -> ContainerState {
        ContainerState::Exited(Exit {
            code,
            signal: None,
            oom_killed: false,
            error: None,
            started_at: Some(at(99)),
            finished_at: at(100),
        })
    }

    fn decided(latest: Option<&Latest>, policy: RestartPolicy, now: i64) -> Decision {
        decide("c", "image", latest, restarts(policy, Role::App), &mut RestartBackoff::default(), at(now))
    }

    #[test]
    fn a_container_without_a_past_is_started() {
        assert_eq!(decided(None, RestartPolicy::Never, 0), Decision::Start { attempt: 0 });
    }

    #[test]
    fn one_that_runs_is_kept_unless_its_image_changed() {
        let mut latest = latest(0, ContainerState::Running { started_at: at(1) });
        assert_eq!(decided(Some(&latest), RestartPolicy::Always, 0), Decision::Keep);
        latest.container.image = "other".into();
        assert_eq!(decided(Some(&latest), RestartPolicy::Always, 0), Decision::Replace);
    }

    #[test]
    fn an_end_restarts_by_policy_and_after_the_back_off() {
        assert_eq!(decided(Some(&latest(0, ended(1))), RestartPolicy::Never, 101), Decision::Done);
        assert_eq!(decided(Some(&latest(0, ended(0))), RestartPolicy::OnFailure, 101), Decision::Done);
        assert_eq!(
            decided(Some(&latest(0, ended(1))), RestartPolicy::OnFailure, 101),
            Decision::Start { attempt: 1 }
        );
        let second = latest(1, ended(1));
        assert_eq!(decided(Some(&second), RestartPolicy::Always, 101), Decision::Wait { until: at(110) });
        assert_eq!(decided(Some(&second), RestartPolicy::Always, 110), Decision::Start { attempt: 2 });
    }

    #[test]
    fn what_was_only_reported_goes_on_counting_and_does_not_wait() {
        let reported: ContainerStatus = serde_json::from_value(json!({
            "name": "c", "image": "image", "imageID": "", "ready": true, "restartCount": 4,
            "containerID": "process://x", "state": {"running": {}}
        }))
        .expect("a status");
        let uid = PodUid::new("u").expect("valid");
        let latest = Latest::find(&[], &uid, Role::App, "c", Some(&reported)).expect("recalled");
        assert_eq!(decided(Some(&latest), RestartPolicy::Always, 0), Decision::Start { attempt: 5 });
        assert_eq!(decided(Some(&latest), RestartPolicy::Never, 0), Decision::Done);
    }

    #[test]
    fn a_container_that_was_never_created_has_no_past() {
        let reported: ContainerStatus = serde_json::from_value(json!({
            "name": "c", "image": "image", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}}
        }))
        .expect("a status");
        let uid = PodUid::new("u").expect("valid");
        assert_eq!(Latest::find(&[], &uid, Role::App, "c", Some(&reported)), None);
    }
}
