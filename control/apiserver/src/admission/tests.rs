use super::*;

fn resource(plural: &str) -> &'static Resource {
    registry::all().iter().find(|resource| resource.plural == plural).unwrap()
}

#[test]
fn an_update_cannot_touch_the_status_or_what_is_the_servers() {
    let deployments = resource("deployments");
    let old = json!({
        "metadata": {"name": "d", "uid": "u", "generation": 1, "resourceVersion": "5"},
        "spec": {"replicas": 1}, "status": {"replicas": 1},
    });
    let mut new = json!({
        "metadata": {"name": "d", "uid": "x", "generation": 9, "labels": {}, "managedFields": [{}]},
        "spec": {"replicas": 2}, "status": {"replicas": 7},
    });
    prepare_update(deployments, Part::Main, &mut new, &old);
    assert_eq!(new["metadata"]["uid"], "u");
    assert_eq!(new["metadata"]["generation"], 2);
    assert_eq!(new["status"], old["status"]);
    assert_eq!(new["spec"]["replicas"], 2);
    assert!(new["metadata"].get("managedFields").is_none() && new["metadata"].get("labels").is_none());
}

#[test]
fn a_status_update_cannot_touch_anything_else() {
    let old = json!({
        "metadata": {"name": "d", "generation": 1, "resourceVersion": "5", "labels": {"a": "b"}},
        "spec": {"nodeName": "n"}, "status": {},
    });
    let new = json!({
        "metadata": {"name": "d", "labels": {"a": "c"}, "finalizers": ["x"]},
        "spec": {"nodeName": "m"}, "status": {"phase": "Running"},
    });
    let mut pod = new.clone();
    prepare_update(resource("pods"), Part::Status, &mut pod, &old);
    assert_eq!(pod["spec"]["nodeName"], "n");
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["metadata"]["labels"]["a"], "c", "agents label their pods this way");
    assert!(pod["metadata"].get("finalizers").is_none());
    let mut deployment = new;
    prepare_update(resource("deployments"), Part::Status, &mut deployment, &old);
    assert_eq!(deployment["metadata"]["labels"]["a"], "b");
    assert_eq!(deployment["metadata"]["generation"], 1);
}

#[test]
fn objects_go_when_nothing_is_left_to_wait_for() {
    let (pods, namespaces) = (resource("pods"), resource("namespaces"));
    let marked = |extra: Value| {
        let mut object = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        object["metadata"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object
    };
    assert!(!is_gone(pods, &json!({"metadata": {}})));
    assert!(is_gone(pods, &marked(json!({"deletionGracePeriodSeconds": 0}))));
    assert!(!is_gone(pods, &marked(json!({"deletionGracePeriodSeconds": 3}))));
    assert!(!is_gone(pods, &marked(json!({"finalizers": ["x"]}))));
    let mut namespace = marked(json!({}));
    namespace["kind"] = json!("Namespace");
    assert!(is_gone(namespaces, &namespace));
    namespace["spec"] = json!({"finalizers": ["kubernetes"]});
    assert!(!is_gone(namespaces, &namespace));
}

#[test]
fn objects_belong_where_the_path_says() {
    let pods = resource("pods");
    let mut pod = json!({"metadata": {"name": "a"}});
    place(pods, Some("x"), &mut pod).unwrap();
    assert_eq!(pod["metadata"]["namespace"], "x");
    assert_eq!(place(pods, Some("y"), &mut pod).unwrap_err().code, 400);
    assert_eq!(place(pods, None, &mut pod).unwrap_err().code, 405);
    assert_eq!(place(pods, Some("x"), &mut json!({"metadata": 7})).unwrap_err().code, 400);
    let mut node = json!({"metadata": {"name": "a", "namespace": "x"}});
    place(resource("nodes"), None, &mut node).unwrap();
    assert!(node["metadata"].get("namespace").is_none());
}
