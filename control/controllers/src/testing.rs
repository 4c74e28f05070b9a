//! Builders for tests.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};

/// A client that reaches nothing.
pub(crate) fn no_client() -> kube::Client {
    let nowhere = "http://127.0.0.1:1".parse().expect("a valid address");
    kube::Client::try_from(kube::Config::new(nowhere)).expect("a client is made without connecting")
}

/// The moment that is `seconds` after the epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("in range")
}

/// A controller reference to the owner with this UID.
pub(crate) fn managed_by(uid: &str) -> OwnerReference {
    OwnerReference { uid: uid.to_owned(), controller: Some(true), ..Default::default() }
}

/// Name, namespace `default`, UID `uid-NAME`, and labels `app=web`.
pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(format!("uid-{name}")),
        labels: Some([("app".to_owned(), "web".to_owned())].into()),
        creation_timestamp: Some(Time(at(0))),
        ..Default::default()
    }
}

/// A pod that waits for a node.
pub(crate) fn pod(name: &str) -> Pod {
    let status = PodStatus { phase: Some("Pending".to_owned()), ..Default::default() };
    Pod { metadata: meta(name), spec: Some(PodSpec::default()), status: Some(status) }
}

/// A pod that runs on `node` and is ready since `since`.
pub(crate) fn ready_pod(name: &str, node: &str, since: i64) -> Pod {
    let mut pod = pod(name);
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    let ready = PodCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(at(since))),
        ..Default::default()
    };
    pod.status = Some(PodStatus {
        phase: Some("Running".to_owned()),
        conditions: Some(vec![ready]),
        pod_ip: Some("10.0.0.1".to_owned()),
        ..Default::default()
    });
    pod
}

/// A template with one container of this image.
pub(crate) fn template(image: &str) -> PodTemplateSpec {
    let container =
        Container { name: "main".to_owned(), image: Some(image.to_owned()), ..Default::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..Default::default()
        }),
        spec: Some(PodSpec { containers: vec![container], ..Default::default() }),
    }
}

/// Selects `app=web`.
pub(crate) fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some([("app".to_owned(), "web".to_owned())].into()), ..Default::default() }
}

/// A Deployment `web` of this image.
pub(crate) fn deployment(replicas: i32, image: &str) -> Deployment {
    let mut metadata = meta("web");
    metadata.generation = Some(1);
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: selector(),
        template: template(image),
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(10),
        ..Default::default()
    };
    Deployment { metadata, spec: Some(spec), status: None }
}

/// A ReplicaSet of the Deployment `web`, with `available` of `replicas` pods available.
pub(crate) fn replica_set(name: &str, image: &str, replicas: i32, available: i32) -> ReplicaSet {
    let mut metadata = meta(name);
    metadata.owner_references = Some(vec![managed_by("uid-web")]);
    metadata.generation = Some(1);
    ReplicaSet {
        metadata,
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector: selector(),
            template: Some(template(image)),
            min_ready_seconds: None,
        }),
        status: Some(ReplicaSetStatus {
            replicas,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            observed_generation: Some(1),
            ..Default::default()
        }),
    }
}
