//! What is to be done next for a Job, decided from what is there.

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::track::{Counts, count};
use crate::pods;

const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LAST_BACKOFF: Duration = Duration::from_secs(600);

/// Failures in a row, which put off the next pod.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Streak {
    /// Pods that failed since the last success.
    pub(super) failures: u32,
    /// When the last of them was noticed.
    pub(super) last: Option<Timestamp>,
}

/// See the [module](self).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// To be written first.
    pub(super) status: JobStatus,
    /// To be freed of their finalizer once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    /// To be deleted.
    pub(super) delete: Vec<Arc<Pod>>,
    /// How many pods to make.
    pub(super) create: usize,
    /// To be told to users: whether it is a warning, reason and message.
    pub(super) events: Vec<(bool, &'static str, &'static str)>,
    /// Failures in a row after this round.
    pub(super) streak: Streak,
    /// When to look again although nothing changed.
    pub(super) again: Option<Duration>,
}

/// What of a Job's wishes this controller cannot fulfil; such a Job gets no pods rather than wrong ones.
pub(super) fn unsupported(spec: &JobSpec) -> Option<&'static str> {
    if spec.completion_mode.as_deref() == Some("Indexed") {
        Some("spec.completionMode: Indexed")
    } else if spec.pod_failure_policy.is_some() {
        Some("spec.podFailurePolicy")
    } else if spec.success_policy.is_some() {
        Some("spec.successPolicy")
    } else {
        None
    }
}

/// When the Job came to its end, if it has.
pub(super) fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    end.last_transition_time.as_ref().map(|time| time.0)
}

/// How the Job ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// `SuccessCriteriaMet` or `FailureTarget`: decided, while pods are still ending.
    announced: &'static str,
    /// `Complete` or `Failed`.
    condition: &'static str,
    reason: &'static str,
    message: &'static str,
}

const COMPLETED: End = End {
    announced: "SuccessCriteriaMet",
    condition: "Complete",
    reason: "CompletionsReached",
    message: "Reached expected number of succeeded pods",
};
const TOO_MANY_FAILURES: End = End {
    announced: "FailureTarget",
    condition: "Failed",
    reason: "BackoffLimitExceeded",
    message: "Job has reached the specified backoff limit",
};
const TOO_LATE: End = End {
    announced: "FailureTarget",
    condition: "Failed",
    reason: "DeadlineExceeded",
    message: "Job was active longer than specified deadline",
};

/// Plans one round for a Job that has not come to its end. `settled` says whether the cache shows all that was done.
pub(super) fn plan(
    job: &Job,
    pods: &[Arc<Pod>],
    released: &HashSet<String>,
    streak: Streak,
    settled: bool,
    now: Timestamp,
) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut status = job.status.clone().unwrap_or_default();
    let counts = count(&mut status, pods, released);
    let streak = streak.after(&counts, now);
    let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    status.active = nonzero(active.len());
    status.ready = Some(number(active.iter().filter(|pod| pods::is_ready(pod)).count()));
    status.terminating = Some(number(terminating));

    let mut plan = Plan { release: counts.to_release.clone(), streak, ..Plan::default() };
    let suspended = spec.suspend == Some(true);
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(Time(now));
    }
    match end(&spec, &status, &counts, &active, now) {
        Some(end) => {
            if condition(&status, end.announced).is_none() {
                set(&mut status, end.announced, "True", end.reason, end.message, now);
            }
            if active.is_empty() && terminating == 0 && counts.complete {
                set(&mut status, end.condition, "True", end.reason, end.message, now);
                if end.condition == "Complete" {
                    status.completion_time = Some(Time(now));
                    plan.events.push((false, "Completed", "Job completed"));
                } else {
                    plan.events.push((true, end.reason, end.message));
                }
            } else if settled {
                plan.delete = active;
            }
        }
        None if suspended => {
            if settled {
                plan.delete = active;
            }
            if condition(&status, "Suspended").is_none_or(|known| known.status != "True") {
                set(&mut status, "Suspended", "True", "JobSuspended", "Job suspended", now);
                plan.events.push((false, "Suspended", "Job suspended"));
            }
            // The time while suspended does not count against the deadline.
            status.start_time = None;
        }
        None => {
            if condition(&status, "Suspended").is_some_and(|known| known.status == "True") {
                set(&mut status, "Suspended", "False", "JobResumed", "Job resumed", now);
                status.start_time = Some(Time(now));
                plan.events.push((false, "Resumed", "Job resumed"));
            }
            plan.again = until_deadline(&spec, &status, now);
            if settled {
                staff(&mut plan, &spec, &counts, active, now);
            }
        }
    }
    plan.status = status;
    plan
}

/// Makes or deletes pods so that as many work as should.
fn staff(plan: &mut Plan, spec: &JobSpec, counts: &Counts, mut active: Vec<Arc<Pod>>, now: Timestamp) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec.completions {
        // A work queue: one success says that it is empty, so nobody new starts.
        None if counts.succeeded > 0 => active.len().min(parallelism),
        None => parallelism,
        Some(completions) => parallelism.min(usize::try_from(completions - counts.succeeded).unwrap_or(0)),
    };
    if active.len() > wanted {
        active.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (
                !pods::node(pod).is_empty(),
                pods::phase(pod) == "Running",
                pods::is_ready(pod),
                std::cmp::Reverse(created),
            )
        });
        active.truncate(active.len() - wanted);
        plan.delete = active;
    } else if active.len() < wanted {
        match plan.streak.wait(now) {
            Some(wait) => plan.again = plan.again.into_iter().chain([wait]).min(),
            None => plan.create = wanted - active.len(),
        }
    }
}

fn end(
    spec: &JobSpec,
    status: &JobStatus,
    counts: &Counts,
    active: &[Arc<Pod>],
    now: Timestamp,
) -> Option<End> {
    // What was decided once stays decided, whatever the pods that are still ending do.
    if condition(status, COMPLETED.announced).is_some() {
        return Some(COMPLETED);
    }
    if let Some(decided) = condition(status, TOO_LATE.announced) {
        return Some(if decided.reason.as_deref() == Some(TOO_LATE.reason) {
            TOO_LATE
        } else {
            TOO_MANY_FAILURES
        });
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts_in_place =
        spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
    let restarts = if restarts_in_place { active.iter().map(|pod| restarts(pod)).sum() } else { 0 };
    if counts.failed > limit || restarts > 0 && restarts >= limit {
        return Some(TOO_MANY_FAILURES);
    }
    let deadline = spec.active_deadline_seconds.map(SignedDuration::from_secs);
    let started = status.start_time.as_ref().map(|time| time.0);
    if spec.suspend != Some(true)
        && deadline.zip(started).is_some_and(|(deadline, started)| now.duration_since(started) >= deadline)
    {
        return Some(TOO_LATE);
    }
    let done = match spec.completions {
        None => counts.succeeded > 0 && active.is_empty(),
        Some(completions) => counts.succeeded >= completions,
    };
    done.then_some(COMPLETED)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().chain(main).flatten().map(|status| status.restart_count).sum()
}

fn until_deadline(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let ends = status.start_time.as_ref()?.0 + SignedDuration::from_secs(spec.active_deadline_seconds?);
    Some(Duration::try_from(ends.duration_since(now)).unwrap_or(Duration::ZERO))
}

fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn set(status: &mut JobStatus, type_: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn nonzero(count: usize) -> Option<i32> {
    Some(number(count)).filter(|count| *count != 0)
}

// === impl Streak ===

impl Streak {
    fn after(self, counts: &Counts, now: Timestamp) -> Self {
        let failed = u32::try_from(counts.newly_failed).unwrap_or(u32::MAX);
        match (counts.newly_succeeded, failed) {
            (0, 0) => self,
            (0, failed) => Self { failures: self.failures.saturating_add(failed), last: Some(now) },
            _ => Self::default(),
        }
    }

    /// How long the next pod has to wait; `None` if it may start.
    fn wait(self, now: Timestamp) -> Option<Duration> {
        let last = self.last?;
        let backoff =
            FIRST_BACKOFF.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(LAST_BACKOFF);
        let passed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
        backoff.checked_sub(passed).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests;
