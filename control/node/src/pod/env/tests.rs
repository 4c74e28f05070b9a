use serde_json::json;

use super::{super::fields::tests::facts, *};

fn service(name: &str, ports: serde_json::Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "ports": ports}
    }))
    .expect("a service")
}

fn get<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn built(container: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String)>, EnvError> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [container]}
    }))
    .expect("a pod");
    let facts = facts();
    let extra = [("POD_IP".to_owned(), "127.64.0.2".to_owned())];
    let inputs = EnvInputs { pod: &pod, facts: &facts, services: &[], sources, extra: &extra };
    build(&pod.spec.as_ref().expect("a spec").containers[0], inputs)
}

#[test]
fn references_expand_as_in_kubernetes() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("", ""),
        ("é$(A)é", "é1é"),
    ] {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

#[test]
fn captured_pods_see_cluster_addresses_and_service_ports() {
    let services = [service("my-web", json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]))];
    let variables = service_variables(services.iter(), "default", true, ServiceView::ClusterIp);
    for (name, value) in [
        ("MY_WEB_SERVICE_HOST", "10.96.0.7"),
        ("MY_WEB_SERVICE_PORT", "80"),
        ("MY_WEB_SERVICE_PORT_HTTPS", "443"),
        ("MY_WEB_PORT", "tcp://10.96.0.7:80"),
        ("MY_WEB_PORT_443_TCP_ADDR", "10.96.0.7"),
    ] {
        assert_eq!(get(&variables, name), Some(value), "{name}");
    }
}

#[test]
fn addressed_pods_see_their_sidecar_and_its_ports() {
    let services = [service("web", json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}]))];
    let view = ServiceView::Sidecar(Ipv4Addr::new(127, 64, 0, 3));
    let variables = service_variables(services.iter(), "default", true, view);
    assert_eq!(get(&variables, "WEB_SERVICE_HOST"), Some("127.64.0.3"));
    assert_eq!(get(&variables, "WEB_SERVICE_PORT"), Some("20007"));
    assert_eq!(get(&variables, "WEB_SERVICE_PORT_ADMIN"), Some("24103"));
    assert_eq!(get(&variables, "WEB_PORT_81_TCP"), Some("tcp://127.64.0.3:24103"));
}

#[test]
fn only_the_own_namespace_and_the_api_are_seen() {
    let services = [service("web", json!([{"port": 80}])), service("kubernetes", json!([{"port": 443}]))];
    let elsewhere = service_variables(services.iter(), "other", true, ServiceView::ClusterIp);
    assert_eq!(get(&elsewhere, "WEB_SERVICE_HOST"), None);
    assert_eq!(get(&elsewhere, "KUBERNETES_SERVICE_PORT"), Some("443"));
    let unlinked = service_variables(services.iter(), "default", false, ServiceView::ClusterIp);
    assert_eq!(get(&unlinked, "WEB_SERVICE_HOST"), None);
}

#[test]
fn headless_services_have_no_variables() {
    let mut headless = service("db", json!([{"port": 1}]));
    headless.spec.as_mut().expect("a spec").cluster_ip = Some("None".into());
    assert!(service_variables([headless].iter(), "default", true, ServiceView::ClusterIp).is_empty());
}

#[test]
fn later_variables_may_refer_to_earlier_ones_and_override() {
    let variables = built(
        json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(POD_IP)"}, {"name": "A", "value": "2"},
            {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        ]}),
        &Sources::default(),
    )
    .expect("builds");
    assert_eq!(get(&variables, "B"), Some("1-127.64.0.2"));
    assert_eq!(get(&variables, "A"), Some("2"));
    assert_eq!(get(&variables, "N"), Some("p"));
}

#[test]
fn objects_give_single_keys_and_all_of_them() {
    let mut sources = Sources::default();
    sources.insert_config_map("cm", [("K", "v"), ("L", "w")]);
    let variables = built(
        json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}},
                        {"secretRef": {"name": "absent", "optional": true}}],
            "env": [{"name": "ONE", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "K"}}},
                    {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "X", "optional": true}}}]}),
        &sources,
    )
    .expect("builds");
    assert_eq!(get(&variables, "P_L"), Some("w"));
    assert_eq!(get(&variables, "ONE"), Some("v"));
    assert_eq!(get(&variables, "NONE"), None);
}

#[test]
fn a_missing_object_or_key_is_named() {
    let reference = |key: &str| json!({"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": key, "key": "K"}}}]});
    let mut sources = Sources::default();
    sources.insert_secret("there", [("X", "")]);
    let error = built(reference("gone"), &sources).expect_err("no object");
    assert_eq!(error.to_string(), "Secret \"gone\" not found");
    let error = built(reference("there"), &sources).expect_err("no key");
    assert_eq!(error.to_string(), "couldn't find key K in Secret \"there\"");
}
