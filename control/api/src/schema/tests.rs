use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::registry;

fn deployments() -> &'static registry::Resource {
    registry::find("apps", "v1", "deployments").unwrap()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "creationTimestamp": null},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "web", "image": "web:1",
                    "resources": {"limits": {"cpu": "500m", "memory": 1000}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                }], "volumes": [{"name": "v", "emptyDir": {}}]},
            },
        },
    })
}

#[test]
fn every_kind_has_a_definition() {
    for resource in registry::all().iter().chain(registry::reviews()) {
        assert!(
            matches!(shape::shape(resource.definition), shape::Shape::Object(_)),
            "{}",
            resource.definition
        );
    }
}

#[test]
fn a_proper_object_has_nothing_to_report() {
    assert_eq!(check(deployments(), &deployment()), SchemaReport::default());
}

#[test]
fn unknown_fields_are_named_with_their_path() {
    let mut object = deployment();
    object["spec"]["template"]["spec"]["containers"][0]["imagee"] = json!("x");
    object["specc"] = json!({});
    let report = check(deployments(), &object);
    assert_eq!(report.unknown, ["spec.template.spec.containers[0].imagee", "specc"]);
    assert!(report.mistyped.is_empty());
    prune(deployments(), &mut object);
    let mut expected = deployment();
    expected["metadata"].as_object_mut().unwrap().remove("creationTimestamp");
    assert_eq!(object, expected);
}

#[test]
fn values_of_the_wrong_type_are_named_with_their_path() {
    for (pointer, value, path) in [
        ("/spec/replicas", json!("three"), "spec.replicas"),
        ("/spec/replicas", json!(1.5), "spec.replicas"),
        ("/spec/replicas", json!(3_000_000_000_u64), "spec.replicas"),
        ("/metadata/labels/app", json!(1), "metadata.labels.app"),
        ("/metadata/name", json!(1), "metadata.name"),
        ("/metadata/creationTimestamp", json!("yesterday"), "metadata.creationTimestamp"),
        ("/spec/template/spec/containers", json!({}), "spec.template.spec.containers"),
        ("/spec/template/spec/containers/0", json!("x"), "spec.template.spec.containers[0]"),
        (
            "/spec/template/spec/containers/0/resources/limits/cpu",
            json!("much"),
            "spec.template.spec.containers[0].resources.limits.cpu",
        ),
        ("/spec/template/spec/volumes/0/emptyDir", json!([]), "spec.template.spec.volumes[0].emptyDir"),
        ("/spec/strategy/rollingUpdate/maxSurge", json!(true), "spec.strategy.rollingUpdate.maxSurge"),
        ("/spec", json!([]), "spec"),
    ] {
        let mut object = deployment();
        *object.pointer_mut(pointer).unwrap() = value;
        let report = check(deployments(), &object);
        assert_eq!(report.mistyped.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), [path]);
    }
    assert_eq!(check(deployments(), &json!([])).mistyped.len(), 1);
}

#[test]
fn data_of_secrets_must_be_base64() {
    let secrets = registry::find("", "v1", "secrets").unwrap();
    assert_eq!(check(secrets, &json!({"data": {"a": "eA=="}})), SchemaReport::default());
    assert_eq!(check(secrets, &json!({"data": {"a": "!"}})).mistyped[0].path, "data.a");
}

proptest! {
    #[test]
    fn arbitrary_values_never_panic(text in "[\\[\\]{}:,\"spec0-9]{0,60}") {
        if let Ok(parsed) = crate::json::parse(text.as_bytes()) {
            let mut value = parsed.value;
            check(deployments(), &value);
            prune(deployments(), &mut value);
        }
    }
}
