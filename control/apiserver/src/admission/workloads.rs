//! What Pods and Jobs get from the server at their creation.

use serde_json::{Value, json};
use weft_api::quantity::Quantity;

/// How long pods stay on a node that is not ready; as Kubernetes' DefaultTolerationSeconds.
const TOLERATION_SECONDS: u64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) fn prepare_pod(pod: &mut Value) {
    let qos = qos_class(pod);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos});
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let account = ["serviceAccountName", "serviceAccount"].into_iter();
    let account = account.filter_map(|field| spec.get(field)?.as_str()).find(|name| !name.is_empty());
    let account = account.unwrap_or("default").to_owned();
    spec.insert("serviceAccountName".to_owned(), json!(account));
    spec.insert("serviceAccount".to_owned(), json!(account));
    spec.entry("priority").or_insert(json!(0));
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
    let tolerations = spec.entry("tolerations").or_insert(json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = tolerations.iter().any(|toleration| {
            let matches = |field: &str, wanted: &str| {
                toleration[field].as_str().is_none_or(|text| text.is_empty() || text == wanted)
            };
            matches("key", key) && matches("effect", "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

/// Guaranteed if every container has equal requests and limits of CPU and memory, best effort if none has any.
fn qos_class(pod: &Value) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter();
    let containers = containers.filter_map(|field| pod["spec"][field].as_array()).flatten();
    let (mut guaranteed, mut any) = (true, false);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |field: &str| {
                let text = container["resources"][field][resource].as_str();
                text.and_then(|text| text.parse::<Quantity>().ok())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            // A limit without a request is also the request.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A Job finds its pods by a label that holds its own uid, unless the user chose the selector.
pub(super) fn prepare_job(job: &mut Value) {
    if job["spec"]["manualSelector"] == true || !job["spec"].is_object() {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    let template = &mut job["spec"]["template"];
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
    ] {
        template["metadata"]["labels"][label] = value.clone();
    }
    job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_a_class_an_account_and_tolerations() {
        let class =
            |resources: Value| qos_class(&json!({"spec": {"containers": [{"resources": resources}]}}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
        let both =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        assert_eq!(class(both), "Guaranteed");
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists"}]}});
        prepare_pod(&mut pod);
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(pod["status"]["phase"], "Pending");
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job = json!({"metadata": {"uid": "u", "name": "j"}, "spec": {"template": {"spec": {}}}});
        prepare_job(&mut job);
        assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }
}
