use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::registry;

fn apply(target: Value, patch: Value) -> Result<Value, PatchError> {
    strategic(registry::find("apps", "v1", "deployments").unwrap(), &target, &patch)
}

fn spec(pod_spec: Value) -> Value {
    json!({"spec": {"template": {"spec": pod_spec}}})
}

#[test]
fn merge_patches_remove_what_is_null() {
    let result =
        merge(&json!({"a": 1, "b": {"c": 1, "d": [1]}}), &json!({"a": null, "b": {"d": [2]}})).unwrap();
    assert_eq!(result, json!({"b": {"c": 1, "d": [2]}}));
    assert!(merge(&json!({}), &json!([])).is_err());
}

#[test]
fn json_patches_apply_completely_or_not_at_all() {
    let target = json!({"a": {"b": [1, 2]}});
    let patch =
        json!([{"op": "test", "path": "/a/b/0", "value": 1}, {"op": "add", "path": "/a/b/-", "value": 3}]);
    assert_eq!(json(&target, &patch).unwrap(), json!({"a": {"b": [1, 2, 3]}}));
    let failing = json!([{"op": "test", "path": "/a", "value": 1}]);
    assert!(matches!(json(&target, &failing), Err(PatchError::Unprocessable(_))));
    assert!(matches!(json(&target, &json!([{"op": "explode"}])), Err(PatchError::Malformed(_))));
    assert!(matches!(json(&target, &json!({})), Err(PatchError::Malformed(_))));
}

#[test]
fn json_patches_are_bounded() {
    let operation = json!({"op": "test", "path": "/a", "value": 1});
    let many = Value::Array(vec![operation; MAX_OPERATIONS + 1]);
    assert_eq!(json(&json!({}), &many), Err(PatchError::TooManyOperations(MAX_OPERATIONS + 1)));

    let doubling = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64]);
    assert_eq!(json(&json!({"a": ["x".repeat(1000)]}), &doubling), Err(PatchError::TooLarge));

    let deepening: Vec<Value> =
        (1..200).map(|depth| json!({"op": "add", "path": "/a".repeat(depth), "value": {}})).collect();
    assert!(matches!(json(&json!({}), &Value::Array(deepening)), Err(PatchError::Unprocessable(_))));
}

#[test]
fn named_items_are_merged_and_new_ones_appended() {
    let target = spec(
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}),
    );
    let patch = spec(json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}));
    let expected = spec(json!({"containers": [
        {"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"},
    ]}));
    assert_eq!(apply(target, patch).unwrap(), expected);
}

#[test]
fn lists_without_a_merge_key_are_replaced() {
    let target = spec(json!({"containers": [{"name": "a", "args": ["x", "y"]}]}));
    let patch = spec(json!({"containers": [{"name": "a", "args": ["z"]}]}));
    assert_eq!(apply(target, patch.clone()).unwrap(), patch);
}

#[test]
fn items_can_be_deleted_and_lists_replaced() {
    let target = spec(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let delete = spec(json!({"containers": [{"name": "a", "$patch": "delete"}]}));
    assert_eq!(apply(target.clone(), delete).unwrap(), spec(json!({"containers": [{"name": "b"}]})));
    let replace = spec(json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}));
    assert_eq!(apply(target.clone(), replace).unwrap(), spec(json!({"containers": [{"name": "c"}]})));
    let replace_object = json!({"spec": {"$patch": "replace", "paused": true}});
    assert_eq!(apply(target, replace_object).unwrap(), json!({"spec": {"paused": true}}));
}

#[test]
fn the_order_of_a_list_can_be_set() {
    let target = spec(json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}));
    let patch = spec(json!({
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "c", "image": "1"}],
    }));
    let names: Vec<Value> = apply(target.clone(), patch).unwrap()["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].clone())
        .collect();
    assert_eq!(names, ["c", "server", "b", "a"]);
    let order_only = spec(json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}));
    let result = apply(target, order_only).unwrap();
    assert_eq!(result["spec"]["template"]["spec"]["containers"][0]["name"], "server");
    assert_eq!(result["spec"]["template"]["spec"]["containers"][1]["name"], "b");
}

#[test]
fn keys_that_are_not_retained_go() {
    let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(apply(target, patch).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let wrong = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert!(matches!(apply(json!({}), wrong), Err(PatchError::Malformed(_))));
}

#[test]
fn lists_of_texts_are_sets() {
    let target = json!({"metadata": {"finalizers": ["a", "b"]}});
    let add = json!({"metadata": {"finalizers": ["b", "c"]}});
    assert_eq!(apply(target.clone(), add).unwrap(), json!({"metadata": {"finalizers": ["a", "b", "c"]}}));
    let remove = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(apply(target, remove).unwrap(), json!({"metadata": {"finalizers": ["b"]}}));
}

#[test]
fn malformed_strategic_patches_are_rejected() {
    for patch in [
        json!([]),
        json!({"$patch": "explode"}),
        json!({"$unknown": 1}),
        spec(json!({"containers": [{"image": "x"}]})),
        spec(json!({"containers": ["x"]})),
        spec(json!({"$setElementOrder/containers": 1, "containers": []})),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
    ] {
        assert!(matches!(apply(json!({}), patch.clone()), Err(PatchError::Malformed(_))), "{patch}");
    }
}

#[test]
fn directives_never_end_up_in_the_object() {
    let patch = spec(
        json!({"containers": [{"name": "a", "$patch": "merge", "ports": [{"containerPort": 1}]}],
        "$setElementOrder/containers": [{"name": "a"}], "securityContext": {"$patch": "replace", "runAsUser": 1}}),
    );
    let result = apply(json!({}), patch).unwrap();
    assert!(!result.to_string().contains('$'), "{result}");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        "[a-z$]{0,3}".prop_map(Value::from),
        Just(json!("replace")),
        Just(json!("delete"))
    ];
    let name = prop_oneof![
        Just("spec".to_owned()),
        Just("template".into()),
        Just("containers".into()),
        Just("name".into()),
        Just("$patch".into()),
        Just("$retainKeys".into()),
        Just("$setElementOrder/containers".into()),
        Just("metadata".into()),
        Just("finalizers".into()),
        Just("$deleteFromPrimitiveList/finalizers".into()),
        Just("op".into()),
        Just("path".into()),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_patches_never_panic(target in value(), patch in value()) {
        let _ = apply(target.clone(), patch.clone());
        let _ = merge(&target, &patch);
        let _ = json(&target, &patch);
    }
}

#[test]
fn long_lists_merge_in_linear_time() {
    let ports = |range: std::ops::Range<u32>| -> Vec<Value> {
        range.map(|n| json!({"name": n.to_string()})).collect()
    };
    let target = spec(json!({"containers": ports(0..20_000)}));
    let patch =
        spec(json!({"containers": ports(10_000..30_000), "$setElementOrder/containers": ports(0..30_000)}));
    let result = apply(target, patch).unwrap();
    assert_eq!(result["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 30_000);
}
