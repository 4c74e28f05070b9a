use serde_json::json;

use super::{super::fields::tests::facts, *};

fn pod(volumes: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [], "volumes": volumes}
    }))
    .expect("a pod")
}

fn sources() -> Sources {
    let mut sources = Sources::default();
    sources.insert_config_map("cm", [("a", "1"), ("b", "2")]);
    sources.insert_secret("s", [("key", "secret")]);
    sources
}

#[test]
fn files_follow_the_object_and_those_that_are_gone_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let pod = pod(json!([{"name": "v", "configMap": {"name": "cm"}}]));
    let volumes = materialise(&pod, &facts(), &sources(), directory.path()).expect("made");
    let read = |file: &str| fs::read_to_string(volumes["v"].join(file)).ok();
    assert_eq!((read("a").as_deref(), read("b").as_deref()), (Some("1"), Some("2")));

    let mut changed = Sources::default();
    changed.insert_config_map("cm", [("a", "3")]);
    materialise(&pod, &facts(), &changed, directory.path()).expect("made");
    assert_eq!((read("a").as_deref(), read("b").as_deref()), (Some("3"), None));
}

#[test]
fn items_choose_keys_paths_and_modes() {
    let directory = tempfile::tempdir().expect("a directory");
    let pod = pod(json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 256,
        "items": [{"key": "key", "path": "sub/file"}]}}]));
    let volumes = materialise(&pod, &facts(), &sources(), directory.path()).expect("made");
    let file = volumes["v"].join("sub/file");
    assert_eq!(fs::read_to_string(&file).expect("exists"), "secret");
    assert_eq!(fs::metadata(&file).expect("exists").permissions().mode() & 0o777, 0o400);
}

#[test]
fn projections_put_several_sources_into_one_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let pod = pod(json!([{"name": "v", "projected": {"sources": [
        {"configMap": {"name": "cm"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]));
    let volumes = materialise(&pod, &facts(), &sources(), directory.path()).expect("made");
    assert_eq!(fs::read_to_string(volumes["v"].join("labels")).expect("exists"), "app=\"web\"");
    assert!(volumes["v"].join("a").exists());
}

#[test]
fn paths_that_leave_the_volume_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    for path in ["../x", "/etc/passwd", "a/../../b", ""] {
        let pod =
            pod(json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": path}]}}]));
        let error = materialise(&pod, &facts(), &sources(), directory.path()).expect_err(path);
        assert!(matches!(error, VolumeError::Path { .. }), "{error}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for (volume, expected) in [
        (json!({"name": "v", "configMap": {"name": "none"}}), "none"),
        (json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}), "\"z\""),
        (json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), "not supported"),
        (json!({"name": "v", "hostPath": {"path": "/nowhere", "type": "Directory"}}), "/nowhere"),
    ] {
        let error =
            materialise(&pod(json!([volume])), &facts(), &sources(), directory.path()).expect_err(expected);
        let text = weft_kit::error::chain(&error);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_sub_path_is_made_and_stays_inside() {
    let directory = tempfile::tempdir().expect("a directory");
    let pod = pod(json!([{"name": "v", "emptyDir": {}}]));
    let volumes = materialise(&pod, &facts(), &sources(), directory.path()).expect("made");
    let container = |sub_path: &str| -> Container {
        serde_json::from_value(json!({"name": "c",
            "volumeMounts": [{"name": "v", "mountPath": "/data", "subPath": sub_path}]}))
        .expect("a container")
    };
    let mounts_of = |sub_path: &str| mounts(&container(sub_path), &volumes);
    assert!(mounts_of("x/y").expect("mounts")[0].source.ends_with("v/x/y"));
    assert!(mounts_of("../..").is_err());
}

#[test]
fn variables_tell_where_volumes_are() {
    let volumes = Volumes::from([("my-data".to_owned(), PathBuf::from("/x"))]);
    assert_eq!(variables(&volumes), [("WEFT_VOLUME_MY_DATA".to_owned(), "/x".to_owned())]);
}
