use serde_json::{Value, json};

use super::*;
use crate::registry;

fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
    let resource = registry::find(group, "v1", plural).unwrap();
    apply(resource, &mut object);
    let once = object.clone();
    apply(resource, &mut object);
    assert_eq!(once, object, "applying the defaults twice changes something");
    assert_eq!(crate::schema::check(resource, &object), crate::schema::SchemaReport::default());
    object
}

#[test]
fn pods_get_what_kubernetes_gives_them() {
    let pod = defaulted(
        "",
        "pods",
        json!({"spec": {
            "containers": [{
                "name": "a", "image": "web", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}],
        }}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "a", "image": "web", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "livenessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 3, "timeoutSeconds": 1,
                    "successThreshold": 1, "failureThreshold": 3,
                },
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
            ],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
        })
    );
}

#[test]
fn only_moving_tags_are_always_pulled() {
    let policy = |image: &str| {
        let pod = defaulted("", "pods", json!({"spec": {"containers": [{"name": "a", "image": image}]}}));
        pod["spec"]["containers"][0]["imagePullPolicy"].as_str().unwrap().to_owned()
    };
    assert_eq!(policy("host:5000/web"), "Always");
    assert_eq!(policy("web:latest"), "Always");
    assert_eq!(policy("web:1.2"), "IfNotPresent");
    assert_eq!(policy("web@sha256:00"), "IfNotPresent");
}

#[test]
fn deployments_roll_by_a_quarter() {
    let deployment = defaulted("apps", "deployments", json!({"spec": {"replicas": 0, "template": {}}}));
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
    let recreate = defaulted("apps", "deployments", json!({"spec": {"strategy": {"type": "Recreate"}}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
}

#[test]
fn services_send_to_their_own_port() {
    let service =
        defaulted("", "services", json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": 0}]}}));
    assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
    assert_eq!(service["spec"]["ports"][1]["targetPort"], 81);
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert_eq!(service["spec"]["sessionAffinity"], "None");
}

#[test]
fn plain_secret_data_is_encoded() {
    let secret = defaulted("", "secrets", json!({"data": {"b": "eQ=="}, "stringData": {"a": "x"}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
}

#[test]
fn new_jobs_select_their_pods_by_uid() {
    let jobs = registry::find("batch", "v1", "jobs").unwrap();
    let mut job =
        defaulted("batch", "jobs", json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}}));
    on_create(jobs, &mut job);
    assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    assert_eq!(job["spec"]["completions"], 1);
}

#[test]
fn new_pods_are_pending_and_tolerate_a_lost_node_for_a_while() {
    let pods = registry::find("", "v1", "pods").unwrap();
    let mut pod = defaulted(
        "",
        "pods",
        json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}}),
    );
    on_create(pods, &mut pod);
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(crate::schema::check(pods, &pod), crate::schema::SchemaReport::default());
}

#[test]
fn services_keep_their_address_when_replaced() {
    let services = registry::find("", "v1", "services").unwrap();
    let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}});
    let mut new = json!({"spec": {"ports": [{"port": 80}]}});
    on_update(services, &mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.9"]));
    let mut external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    on_update(services, &mut external, &old);
    assert!(external["spec"].get("clusterIP").is_none());
}

#[test]
fn mistyped_objects_are_left_alone() {
    for resource in registry::all() {
        for object in
            [json!(null), json!([]), json!({"spec": 1}), json!({"spec": {"template": [], "ports": {}}})]
        {
            let mut object = object;
            apply(resource, &mut object);
            on_create(resource, &mut object);
            on_update(resource, &mut object, &json!({"spec": {"clusterIP": "a", "finalizers": []}}));
        }
    }
}
