//! The controllers against a real API server in the same process.

mod support;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        batch::v1::Job,
        core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use support::{Cluster, eventually};
use weft_controllers::Config;

fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}},
    }})
}

async fn available(cluster: &Cluster, name: &str, replicas: i32) -> bool {
    let deployment = cluster.api::<Deployment>().get(name).await.expect("the deployment is there");
    let status = deployment.status.unwrap_or_default();
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
}

async fn events(cluster: &Cluster, reason: &str) -> Vec<String> {
    let api: Api<Event> = cluster.api();
    let list = api.list(&ListParams::default()).await.expect("events are listed");
    let matching = list.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
    matching.filter_map(|event| event.message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_rolled_out_scaled_updated_and_undone() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.create::<Deployment>(deployment("web", 3, "one")).await;
    eventually("three pods are available", || available(&cluster, "web", 3)).await;
    assert_eq!(cluster.list::<Pod>("app=web").await.len(), 3);
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    assert_eq!(sets.len(), 1);
    let revision = |set: &ReplicaSet| {
        set.metadata.annotations.clone().unwrap_or_default()["deployment.kubernetes.io/revision"].clone()
    };
    assert_eq!(revision(&sets[0]), "1");

    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 6}})).await;
    eventually("six pods are available", || available(&cluster, "web", 6)).await;
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 2}})).await;
    eventually("two pods are available", || available(&cluster, "web", 2)).await;

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    cluster.patch::<Deployment>("web", image("two")).await;
    eventually("the update is complete", || available(&cluster, "web", 2)).await;
    cluster.patch::<Deployment>("web", image("one")).await;
    eventually("the undo is complete", || available(&cluster, "web", 2)).await;
    let mut sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    sets.sort_by_key(|set| set.spec.as_ref().and_then(|spec| spec.replicas));
    let found: Vec<_> =
        sets.iter().map(|set| (revision(set), set.spec.as_ref().and_then(|spec| spec.replicas))).collect();
    assert_eq!(found, [("2".to_owned(), Some(0)), ("3".to_owned(), Some(2))]);

    let scaled = events(&cluster, "ScalingReplicaSet").await;
    let name = sets[1].metadata.name.clone().unwrap_or_default();
    assert!(scaled.contains(&format!("Scaled up replica set {name} from 0 to 3")), "{scaled:?}");
    let conditions =
        cluster.api::<Deployment>().get("web").await.expect("there").status.and_then(|s| s.conditions);
    let progressing =
        conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Progressing").expect("present");
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_update_keeps_the_old_pods() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.create::<Deployment>(deployment("web", 3, "one")).await;
    eventually("three pods are available", || available(&cluster, "web", 3)).await;
    let broken =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "never-ready"}]}}}});
    cluster.patch::<Deployment>("web", broken).await;
    eventually("one new pod is tried", || async {
        let pods: Vec<Pod> = cluster.list("app=web").await;
        pods.len() == 4
    })
    .await;
    let status = cluster.api::<Deployment>().get("web").await.expect("there").status.unwrap_or_default();
    assert_eq!(status.available_replicas, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_and_exactly_as_many_are_made_as_are_missing() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.create::<Deployment>(deployment("web", 40, "one")).await;
    eventually("forty pods are available", || available(&cluster, "web", 40)).await;
    assert_eq!(events(&cluster, "SuccessfulCreate").await.len(), 40);
    let victim = cluster.list::<Pod>("app=web").await.swap_remove(7).metadata.name.unwrap_or_default();
    cluster.api::<Pod>().delete(&victim, &DeleteParams::default()).await.expect("the pod is deleted");
    eventually("the pod is replaced", || async {
        let pods: Vec<Pod> = cluster.list("app=web").await;
        pods.len() == 40 && pods.iter().all(|pod| pod.metadata.name.as_deref() != Some(&victim))
    })
    .await;
    eventually("one more creation is told", || async {
        events(&cluster, "SuccessfulCreate").await.len() == 41
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relabelled_pod_is_released_and_replaced_and_a_stray_one_adopted() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.create::<Deployment>(deployment("web", 2, "one")).await;
    eventually("two pods are available", || available(&cluster, "web", 2)).await;
    let pod = cluster.list::<Pod>("app=web").await.swap_remove(0).metadata.name.unwrap_or_default();
    cluster.patch::<Pod>(&pod, json!({"metadata": {"labels": {"app": "debug"}}})).await;
    eventually("the pod is released and replaced", || async {
        let released = cluster.api::<Pod>().get(&pod).await.expect("it lives on").metadata.owner_references;
        released.unwrap_or_default().is_empty() && cluster.list::<Pod>("app=web").await.len() == 2
    })
    .await;
    let hash = cluster.list::<ReplicaSet>("app=web").await.swap_remove(0).metadata.labels.unwrap_or_default();
    let labels =
        json!({"metadata": {"labels": {"app": "web", "pod-template-hash": hash["pod-template-hash"]}}});
    cluster.patch::<Pod>(&pod, labels).await;
    eventually("it is adopted, and one pod too many is deleted", || async {
        let pods = cluster.list::<Pod>("app=web").await;
        pods.len() == 2 && pods.iter().all(|pod| pod.metadata.owner_references.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_slices_that_follow_readiness() {
    let cluster = Cluster::start(Config::default()).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
    }});
    cluster.create::<Service>(service).await;
    cluster.create::<Deployment>(deployment("web", 3, "one")).await;
    let ready = || async {
        let slices: Vec<EndpointSlice> = cluster.list("kubernetes.io/service-name=web").await;
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
    };
    eventually("three endpoints are ready", || async { ready().await == 3 }).await;
    let pod = cluster.list::<Pod>("app=web").await.swap_remove(0).metadata.name.unwrap_or_default();
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let pods: Api<Pod> = cluster.api();
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Strategic(unready)).await.expect("patched");
    eventually("one endpoint is not ready", || async { ready().await == 2 }).await;
    cluster.api::<Service>().delete("web", &DeleteParams::default()).await.expect("the service is deleted");
    eventually("its slices go with it", || async {
        cluster.list::<EndpointSlice>("kubernetes.io/service-name=web").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner_in_each_way_there_is() {
    let cluster = Cluster::start(Config::default()).await;
    for name in ["background", "foreground", "orphaned"] {
        cluster.create::<Deployment>(deployment(name, 2, "one")).await;
        eventually("two pods are available", || available(&cluster, name, 2)).await;
    }
    let api: Api<Deployment> = cluster.api();
    let count = async |name: &str| {
        let labels = format!("app={name}");
        (cluster.list::<ReplicaSet>(&labels).await.len(), cluster.list::<Pod>(&labels).await.len())
    };
    api.delete("background", &DeleteParams::background()).await.expect("deleted");
    eventually("set and pods are gone", || async { count("background").await == (0, 0) }).await;

    api.delete("foreground", &DeleteParams::foreground()).await.expect("deleted");
    eventually("the deployment is gone", || async {
        api.get_opt("foreground").await.is_ok_and(|d| d.is_none())
    })
    .await;
    assert_eq!(count("foreground").await.0, 0, "the set went before the deployment");
    eventually("the pods are gone", || async { count("foreground").await == (0, 0) }).await;

    api.delete("orphaned", &DeleteParams::orphan()).await.expect("deleted");
    eventually("the deployment is gone", || async {
        api.get_opt("orphaned").await.is_ok_and(|d| d.is_none())
    })
    .await;
    assert_eq!(count("orphaned").await, (1, 2));
    let set = cluster.list::<ReplicaSet>("app=orphaned").await.swap_remove(0);
    assert!(set.metadata.owner_references.unwrap_or_default().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_goes_with_its_contents() {
    let config = Config { ca_pem: Some("PEM".to_owned()), ..Config::default() };
    let cluster = Cluster::start(config).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).expect("valid");
    namespaces.create(&PostParams::default(), &namespace).await.expect("the namespace is made");
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "shop");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "shop");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "shop");
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "shop");
    let there = |found: bool| std::future::ready(found);
    eventually("account and certificate are there", || async {
        there(matches!(accounts.get_opt("default").await, Ok(Some(_)))).await
            && matches!(maps.get_opt("kube-root-ca.crt").await, Ok(Some(_)))
    })
    .await;
    let web = serde_json::from_value(deployment("web", 3, "one")).expect("valid");
    deployments.create(&PostParams::default(), &web).await.expect("the deployment is made");
    eventually("pods run", || async {
        pods.list(&ListParams::default()).await.is_ok_and(|l| l.items.len() == 3)
    })
    .await;
    namespaces.delete("shop", &DeleteParams::default()).await.expect("the namespace is deleted");
    eventually("the namespace is gone", || async {
        namespaces.get_opt("shop").await.is_ok_and(|n| n.is_none())
    })
    .await;
    assert!(pods.list(&ListParams::default()).await.expect("listed").items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_its_pods_exactly_and_goes_after_its_time() {
    let cluster = Cluster::start(Config::default()).await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"}, "spec": {
        "completions": 12, "parallelism": 5, "ttlSecondsAfterFinished": 2,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "quick"}]}},
    }});
    cluster.create::<Job>(job).await;
    let jobs: Api<Job> = cluster.api();
    eventually("the job completes", || async {
        let status = jobs.get_opt("sum").await.ok().flatten().and_then(|job| job.status).unwrap_or_default();
        let complete =
            status.conditions.iter().flatten().any(|c| c.type_ == "Complete" && c.status == "True");
        if complete {
            assert_eq!((status.succeeded, status.failed, status.active), (Some(12), None, None));
        }
        complete
    })
    .await;
    assert_eq!(events(&cluster, "SuccessfulCreate").await.len(), 12);
    eventually("job and pods are gone", || async {
        jobs.get_opt("sum").await.is_ok_and(|job| job.is_none())
            && cluster.list::<Pod>("job-name=sum").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_silent_node_are_moved() {
    let config = Config {
        node_monitor_grace: std::time::Duration::from_secs(2),
        default_toleration: std::time::Duration::from_secs(1),
        ..Config::default()
    };
    let cluster = Cluster::start(config).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let pods: Api<Pod> = cluster.api();
    for name in ["alive", "silent"] {
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("valid");
        nodes.create(&PostParams::default(), &node).await.expect("the node is made");
    }
    let beat = async |name: &str| {
        let now = Timestamp::now();
        let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string()});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        nodes.patch_status(name, &PatchParams::default(), &patch).await.expect("patched");
    };
    beat("silent").await;
    let toleration = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                            "tolerationSeconds": 1});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "silent", "tolerations": [toleration], "containers": [{"name": "c", "image": "one"}],
    }});
    cluster.create::<Pod>(pod).await;
    eventually("the pod is evicted", || async {
        beat("alive").await;
        pods.get_opt("p").await.is_ok_and(|pod| pod.is_none())
    })
    .await;
    let node = nodes.get("silent").await.expect("the node is there");
    let ready =
        node.status.and_then(|s| s.conditions).unwrap_or_default().into_iter().find(|c| c.type_ == "Ready");
    assert_eq!(ready.map(|condition| condition.status), Some("Unknown".to_owned()));
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    assert!(taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute"));
    beat("silent").await;
    eventually("the taints are taken away", || async {
        beat("alive").await;
        let spec = nodes.get("silent").await.expect("the node is there").spec.unwrap_or_default();
        spec.taints.unwrap_or_default().is_empty()
    })
    .await;
}
