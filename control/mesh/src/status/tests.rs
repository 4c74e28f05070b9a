use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service as KubeService;
use serde_json::{Value, json};

use super::condition::{PROGRAMMED, Problem, of, wanted};

fn service(conditions: Value) -> KubeService {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "default", "generation": 7 },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn problem(message: &str) -> Option<Problem> {
    Some(Problem { reason: "InvalidAnnotation", message: message.to_owned() })
}

#[test]
fn a_condition_is_written_when_it_says_something_new() {
    let (t1, t2) = (Timestamp::from_second(1000).unwrap(), Timestamp::from_second(2000).unwrap());
    assert_eq!(wanted(&service(json!([])), None, t1), None, "all is well and always was");

    let bad = wanted(&service(json!([])), problem("a"), t1).expect("something new");
    assert_eq!((bad.type_.as_str(), bad.status.as_str()), (PROGRAMMED, "False"));
    assert_eq!((bad.reason.as_str(), bad.observed_generation), ("InvalidAnnotation", Some(7)));

    let other = json!({ "type": "Other", "status": "True", "reason": "R", "message": "",
                        "lastTransitionTime": "2020-01-01T00:00:00Z" });
    let is_bad = service(json!([other, serde_json::to_value(&bad).unwrap()]));
    assert_eq!(of(&is_bad), Some(&bad));
    assert_eq!(wanted(&is_bad, problem("a"), t2), None, "it says so already");
    let worse = wanted(&is_bad, problem("b"), t2).expect("another message");
    assert_eq!(worse.last_transition_time, bad.last_transition_time, "it was False before");

    let mended = wanted(&is_bad, None, t2).expect("it is mended");
    assert_eq!((mended.status.as_str(), mended.last_transition_time.0), ("True", t2));
}
