use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service as KubeService;
use serde_json::{Value, json};
use weft_discovery::model::ServiceId;
use weft_xds::{
    ResourceType,
    pb::envoy::config::core::v3::Node,
    server::{ProxyBooks, ProxyObserver as _, TypeStatus},
    session::server::{RefusedVersion, SyncState, Variant},
};

use super::{
    Answers,
    condition::{PROGRAMMED, Problem, of, wanted},
    findings::Findings,
};
use crate::{catalog::tests::small_mesh, policy::RETRIES};

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

/// What a proxy's books say of its routes.
fn books(proxy: &str, state: SyncState, refused: &[(&str, bool)]) -> ProxyBooks {
    let refused = refused.iter().map(|(name, named)| {
        let version = "1".parse().unwrap();
        ((*name).to_owned(), RefusedVersion { version, reason: "is bad".into(), named: *named })
    });
    let status = TypeStatus {
        state,
        sent_version: "2".to_owned(),
        acked_version: String::new(),
        held: 0,
        acked: BTreeMap::new(),
        last_nack: None,
        refused: refused.collect(),
        sent_at: None,
        acked_at: None,
        refused_at: None,
    };
    ProxyBooks {
        node: Node { id: proxy.to_owned(), ..Node::default() }.into(),
        connected_at: SystemTime::UNIX_EPOCH,
        variant: Variant::Delta,
        unanswered_for: None,
        types: [(ResourceType::RouteConfiguration, status)].into(),
        resources: Vec::new(),
    }
}

#[test]
fn a_refusal_is_held_against_its_service_until_the_proxy_takes_something_else() {
    let mesh = small_mesh();
    let (web, mut findings) = (ServiceId::new("default", "web"), Findings::default());
    findings.services(&mesh);
    assert_eq!(findings.problem(&web), None);

    let refused = [
        ("web.default:80", true),
        ("api.default:81", false),
        ("inbound:80", true),
        ("gone.default:80", true),
    ];
    let (dirty, new) = findings.proxy(&books("a", SyncState::Refused, &refused), &mesh);
    assert_eq!(dirty, [web.clone()].into(), "only what it names, of services that are there");
    assert_eq!(new.len(), 1);
    let problem = findings.problem(&web).expect("it is refused");
    assert_eq!(problem.reason, "RefusedByProxy");
    assert_eq!(problem.message, "route web.default:80 is refused by a: is bad; the last good version stays");
    for proxy in ["b", "c", "d", "e"] {
        findings.proxy(&books(proxy, SyncState::Refused, &refused[..1]), &mesh);
    }
    let message = findings.problem(&web).expect("by all").message;
    assert!(message.contains("is refused by a, b, c and 2 more proxies: is bad"), "{message}");
    for proxy in ["b", "c", "d", "e"] {
        assert_eq!(findings.forget(proxy).len(), 1);
    }

    // On a new stream it has said nothing about it yet.
    let (dirty, new) = findings.proxy(&books("a", SyncState::Stale, &[]), &mesh);
    assert!(dirty.is_empty() && new.is_empty() && findings.has("a"));
    let (dirty, new) = findings.proxy(&books("a", SyncState::Refused, &refused[..1]), &mesh);
    assert!(dirty.is_empty() && new.is_empty(), "it says it again, which is nothing new");
    let (dirty, _) = findings.proxy(&books("a", SyncState::Synced, &[]), &mesh);
    assert_eq!((dirty.len(), findings.problem(&web), findings.has("a")), (1, None, false));
}

#[test]
fn only_what_changed_about_the_annotations_of_a_service_is_told() {
    let mut mesh = small_mesh();
    let (web, mut findings) = (ServiceId::new("default", "web"), Findings::default());
    assert!(findings.services(&mesh).is_empty(), "all are well");
    let mut annotate = |value: &str| {
        let mut service = (*mesh.services[&web]).clone();
        service.annotations = [(RETRIES.to_owned(), value.to_owned())].into();
        Arc::make_mut(&mut mesh.services).insert(web.clone(), Arc::new(service));
        let dirty = findings.services(&mesh).len();
        (dirty, findings.problem(&web).map(|problem| problem.reason))
    };
    assert_eq!(annotate("many"), (1, Some("InvalidAnnotation")));
    assert_eq!(annotate("many"), (0, Some("InvalidAnnotation")), "another state, the same annotation");
    assert_eq!(annotate("3"), (1, None));
}

#[test]
fn answers_are_of_interest_only_from_those_who_refused() {
    let answers = Answers::default();
    let node = Node { id: "a".to_owned(), ..Node::default() };
    let news = || std::mem::take(&mut answers.proxies.lock().news).len();
    answers.answered("a", ResourceType::Cluster);
    answers.disconnected(&node);
    assert_eq!(news(), 0);
    answers.refused("a", ResourceType::Cluster);
    assert_eq!(news(), 1);
    answers.answered("a", ResourceType::Cluster);
    answers.release("a");
    assert_eq!(news(), 1, "what it did since it was looked at is not lost");
    answers.release("a");
    answers.answered("a", ResourceType::Cluster);
    assert_eq!(news(), 0);
}
