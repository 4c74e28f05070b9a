use super::*;
use crate::{
    job::track::FINALIZER,
    testing::{at, meta, template},
};

/// A Job and its pods, moved on as the API server and the node would.
struct Cluster {
    job: Job,
    pods: Vec<Pod>,
    streak: Streak,
    now: i64,
    made: usize,
    told: Vec<&'static str>,
}

impl Cluster {
    fn new(completions: Option<i32>, parallelism: i32) -> Self {
        let spec = JobSpec {
            completions,
            parallelism: Some(parallelism),
            backoff_limit: Some(2),
            template: template("a"),
            ..Default::default()
        };
        let job = Job { metadata: meta("job"), spec: Some(spec), status: None };
        Self { job, pods: Vec::new(), streak: Streak::default(), now: 100, made: 0, told: Vec::new() }
    }

    fn spec(&mut self) -> &mut JobSpec {
        self.job.spec.get_or_insert_default()
    }

    /// Does one round; returns when the next is due by time.
    fn round(&mut self) -> Option<Duration> {
        if finished_at(&self.job).is_some() {
            return None;
        }
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(&self.job, &pods, &HashSet::new(), self.streak, true, at(self.now));
        self.job.status = Some(plan.status);
        self.streak = plan.streak;
        self.told.extend(plan.events.iter().map(|(_, reason, _)| reason));
        for pod in plan.release {
            self.pods.retain(|own| own.metadata.uid != pod.metadata.uid || !pods::is_terminating(own));
            for own in self.pods.iter_mut().filter(|own| own.metadata.uid == pod.metadata.uid) {
                own.metadata.finalizers = None;
            }
        }
        for pod in plan.delete {
            for own in self.pods.iter_mut().filter(|own| own.metadata.uid == pod.metadata.uid) {
                own.metadata.deletion_timestamp = Some(Time(at(self.now)));
            }
        }
        for _ in 0..plan.create {
            self.made += 1;
            let mut pod = crate::testing::pod(&format!("job-{}", self.made));
            pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            self.pods.push(pod);
        }
        plan.again
    }

    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    /// The pods that run come to this end.
    fn end(&mut self, count: usize, phase: &str) {
        let running = self.pods.iter_mut().filter(|pod| pods::is_active(pod));
        for pod in running.take(count) {
            pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        }
    }

    fn active(&self) -> usize {
        self.pods.iter().filter(|pod| pods::is_active(pod)).count()
    }

    fn has(&self, type_: &str) -> Option<String> {
        let status = self.job.status.clone().unwrap_or_default();
        condition(&status, type_).filter(|c| c.status == "True").and_then(|c| c.reason.clone())
    }
}

#[test]
fn a_job_runs_to_completion_with_its_parallelism() {
    let mut cluster = Cluster::new(Some(5), 2);
    cluster.rounds(2);
    while cluster.has("Complete").is_none() {
        assert!(cluster.active() <= 2 && cluster.made <= 5);
        cluster.end(1, "Succeeded");
        cluster.rounds(3);
    }
    let status = cluster.job.status.clone().unwrap_or_default();
    assert_eq!((cluster.made, status.succeeded, status.failed, status.active), (5, Some(5), None, None));
    assert!(status.completion_time.is_some());
    assert_eq!(cluster.told, ["Completed"]);
    assert_eq!(cluster.has("SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
}

#[test]
fn failures_are_retried_ever_later_until_the_limit() {
    let mut cluster = Cluster::new(Some(1), 1);
    cluster.round();
    for wait in [10, 20] {
        cluster.end(1, "Failed");
        cluster.rounds(2);
        assert_eq!(cluster.round(), Some(Duration::from_secs(wait)));
        cluster.now += i64::try_from(wait).expect("small");
        cluster.round();
        assert_eq!(cluster.active(), 1);
    }
    cluster.end(1, "Failed");
    cluster.rounds(3);
    assert_eq!(cluster.has("Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(cluster.job.status.as_ref().and_then(|status| status.failed), Some(3));
    assert_eq!(cluster.told, ["BackoffLimitExceeded"]);
}

#[test]
fn a_job_that_takes_too_long_fails_and_its_pods_go_first() {
    let mut cluster = Cluster::new(Some(2), 2);
    cluster.spec().active_deadline_seconds = Some(30);
    cluster.round();
    assert_eq!(cluster.round(), Some(Duration::from_secs(30)));
    cluster.now += 30;
    cluster.round();
    assert_eq!((cluster.active(), cluster.has("Failed")), (0, None));
    assert_eq!(cluster.has("FailureTarget").as_deref(), Some("DeadlineExceeded"));
    cluster.rounds(3);
    assert_eq!(cluster.has("Failed").as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_over_when_resumed() {
    let mut cluster = Cluster::new(Some(1), 1);
    cluster.spec().suspend = Some(true);
    cluster.rounds(2);
    assert_eq!(cluster.made, 0);
    assert_eq!(cluster.has("Suspended").as_deref(), Some("JobSuspended"));
    cluster.spec().suspend = Some(false);
    cluster.now += 500;
    cluster.round();
    assert_eq!(cluster.active(), 1);
    assert_eq!(cluster.job.status.as_ref().and_then(|status| status.start_time.clone()), Some(Time(at(600))));
    assert_eq!(cluster.told, ["Suspended", "Resumed"]);
}

#[test]
fn without_a_number_of_completions_one_success_is_the_beginning_of_the_end() {
    let mut cluster = Cluster::new(None, 3);
    cluster.round();
    assert_eq!(cluster.active(), 3);
    cluster.end(1, "Succeeded");
    cluster.rounds(3);
    assert_eq!((cluster.active(), cluster.made), (2, 3));
    assert_eq!(cluster.has("Complete"), None);
    cluster.end(2, "Succeeded");
    cluster.rounds(3);
    assert!(cluster.has("Complete").is_some());
}

#[test]
fn less_parallelism_takes_pods_away() {
    let mut cluster = Cluster::new(Some(9), 4);
    cluster.round();
    cluster.spec().parallelism = Some(1);
    cluster.round();
    assert_eq!(cluster.active(), 1);
}

#[test]
fn nothing_is_made_while_the_cache_is_behind() {
    let cluster = Cluster::new(Some(3), 3);
    let plan = plan(&cluster.job, &[], &HashSet::new(), Streak::default(), false, at(1));
    assert_eq!(plan.create, 0);
}

#[test]
fn what_is_not_supported_is_said() {
    let mut cluster = Cluster::new(Some(3), 3);
    assert_eq!(unsupported(cluster.spec()), None);
    cluster.spec().completion_mode = Some("Indexed".to_owned());
    assert_eq!(unsupported(cluster.spec()), Some("spec.completionMode: Indexed"));
}
