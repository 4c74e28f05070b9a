use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{defaults, registry};

fn resource(group: &str, plural: &str) -> &'static Resource {
    registry::find(group, "v1", plural).unwrap()
}

fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
    defaults::apply(resource(group, plural), &mut object);
    object
}

/// The messages for an object after its defaults.
fn errors(group: &str, plural: &str, object: Value) -> Vec<String> {
    create(resource(group, plural), &defaulted(group, plural, object))
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn pod(container: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"containers": [container]}})
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "b"}]},
            },
        },
    })
}

#[test]
fn proper_objects_pass() {
    assert!(errors("apps", "deployments", deployment()).is_empty());
    assert!(errors("", "pods", pod(json!({"name": "a", "image": "b"}))).is_empty());
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}});
    assert!(errors("", "services", service).is_empty());
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}});
    assert!(errors("batch", "jobs", job).is_empty());
    assert!(errors("", "configmaps", json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).is_empty());
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["127.64.0.2"]}],
        "ports": [{"port": 80}]});
    assert!(errors("discovery.k8s.io", "endpointslices", slice).is_empty());
}

#[test]
fn container_errors_read_as_in_kubernetes() {
    assert_eq!(
        errors("", "pods", json!({"metadata": {"name": "a"}, "spec": {}})),
        ["spec.containers: Required value"]
    );
    let bad = json!({
        "name": "a", "image": "b", "imagePullPolicy": "Sometimes",
        "ports": [{"containerPort": 70000}],
        "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
        "volumeMounts": [{"name": "nope", "mountPath": "/x"}],
        "livenessProbe": {},
        "env": [{"name": ""}],
    });
    assert_eq!(
        errors("", "pods", pod(bad)),
        [
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].volumeMounts[0].name: Not found: \"nope\"",
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ]
    );
}

#[test]
fn names_are_checked_per_kind() {
    let error = &errors(
        "",
        "pods",
        json!({"metadata": {"name": "Web_1"},
        "spec": {"containers": [{"name": "a", "image": "b"}]}}),
    )[0];
    assert!(
        error.starts_with("metadata.name: Invalid value: \"Web_1\": a lowercase RFC 1123 subdomain must"),
        "{error}"
    );
    let service = json!({"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 80}]}});
    assert!(errors("", "services", service)[0].contains("a DNS-1035 label must"));
    assert_eq!(
        errors("", "configmaps", json!({"metadata": {}})),
        ["metadata.name: Required value: name or generateName is required"]
    );
}

#[test]
fn selectors_must_match_their_template() {
    let mut object = deployment();
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(
        errors("apps", "deployments", object),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
        ]
    );
    let mut object = deployment();
    object["spec"]["selector"] = Value::Null;
    assert_eq!(errors("apps", "deployments", object), ["spec.selector: Required value"]);
    let mut object = deployment();
    object["spec"]["selector"] = json!({});
    assert_eq!(
        errors("apps", "deployments", object),
        ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]
    );
}

#[test]
fn rolling_updates_need_room() {
    let mut object = deployment();
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}});
    assert_eq!(
        errors("apps", "deployments", object),
        ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
    );
    let mut object = deployment();
    object["spec"]["replicas"] = json!(-1);
    assert_eq!(
        errors("apps", "deployments", object),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn jobs_do_not_restart_for_ever() {
    let job = json!({"metadata": {"name": "j"},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    assert_eq!(
        errors("batch", "jobs", job),
        [
            "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\""
        ]
    );
}

#[test]
fn services_need_distinct_ports() {
    let ports = json!([{"port": 80}, {"port": 80, "name": "b"}]);
    let found = errors("", "services", json!({"metadata": {"name": "web"}, "spec": {"ports": ports}}));
    assert_eq!(found[0], "spec.ports[0].name: Required value");
    assert!(found[1].starts_with("spec.ports[1]: Duplicate value:"));
    assert_eq!(
        errors("", "services", json!({"metadata": {"name": "web"}, "spec": {}})),
        ["spec.ports: Required value"]
    );
    assert!(
        errors("", "services", json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None"}}))
            .is_empty()
    );
}

#[test]
fn what_is_immutable_stays() {
    let old = defaulted("apps", "deployments", deployment());
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(5);
    assert!(update(resource("apps", "deployments"), &new, &old).is_empty());
    new["spec"]["selector"]["matchLabels"]["x"] = json!("y");
    new["spec"]["template"]["metadata"]["labels"]["x"] = json!("y");
    let found = update(resource("apps", "deployments"), &new, &old);
    assert_eq!(found[0].path, "spec.selector");
    assert_eq!(found[0].detail, "field is immutable");

    let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "1"}});
    let new = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "2"}});
    assert_eq!(update(resource("", "configmaps"), &new, &old)[0].path, "data");
}

#[test]
fn of_a_pod_only_images_and_a_few_more_may_change() {
    let old = defaulted("", "pods", pod(json!({"name": "a", "image": "b:1"})));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("b:2");
    new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    new["spec"]["activeDeadlineSeconds"] = json!(5);
    assert!(update(resource("", "pods"), &new, &old).is_empty());
    new["spec"]["containers"][0]["command"] = json!(["x"]);
    let found = update(resource("", "pods"), &new, &old);
    assert_eq!((found[0].path.as_str(), found[0].kind), ("spec", FieldErrorKind::Forbidden));
}

#[test]
fn keys_and_sizes_of_data_are_bounded() {
    let found = errors("", "configmaps", json!({"metadata": {"name": "a"}, "data": {"a/b": ""}}));
    assert!(found[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key"), "{found:?}");
    let found = errors(
        "",
        "configmaps",
        json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat((1 << 20) + 1)}}),
    );
    assert_eq!(found, ["data: Too long: may not be more than 1048576 bytes"]);
    let tls = errors("", "secrets", json!({"metadata": {"name": "a"}, "type": "kubernetes.io/tls"}));
    assert_eq!(tls, ["data[tls.crt]: Required value", "data[tls.key]: Required value"]);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9%./-]{0,5}".prop_map(Value::from),
    ];
    let name = proptest::sample::select(vec![
        "metadata",
        "name",
        "labels",
        "spec",
        "template",
        "containers",
        "ports",
        "port",
        "selector",
        "matchLabels",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "resources",
        "limits",
        "requests",
        "livenessProbe",
        "httpGet",
        "volumes",
        "tolerations",
        "env",
        "valueFrom",
        "data",
        "status",
    ]);
    leaf.prop_recursive(6, 60, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..5).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_objects_never_panic(object in value(), old in value()) {
        for res in registry::all() {
            let mut object = object.clone();
            let _ = create(res, &object);
            defaults::apply(res, &mut object);
            defaults::on_create(res, &mut object);
            let _ = update(res, &object, &old);
        }
    }
}
