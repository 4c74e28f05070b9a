use super::*;

/// Every reference in the document leads somewhere.
fn assert_closed(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            fields.values().for_each(|value| assert_closed(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| assert_closed(document, value)),
        _ => {}
    }
}

#[test]
fn references_lead_to_definitions() {
    let v2 = openapi_v2();
    assert_closed(&v2, &v2);
    for resource in served() {
        let v3 = openapi_v3(resource.group, resource.version).unwrap();
        assert_closed(&v3, &v3);
    }
    assert!(openapi_v3("nothing.example", "v1").is_none());
}

#[test]
fn kubectl_finds_kinds_merge_keys_and_parameters() {
    let document = openapi_v3("apps", "v1").unwrap();
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation"]);
}

#[test]
fn references_with_a_description_are_wrapped_in_v3() {
    let v3 = openapi_v3("apps", "v1").unwrap();
    let spec = &v3["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    assert!(spec.get("$ref").is_none());
}
