use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn duplicate_fields_are_named_and_the_last_one_counts() {
    let body = br#"{"spec": {"replicas": 1, "replicas": 2, "containers": [{"name": "a", "name": "b"}]}, "spec2": 1}"#;
    let parsed = parse(body).unwrap();
    assert_eq!(parsed.duplicates, ["spec.replicas", "spec.containers[0].name"]);
    assert_eq!(parsed.value["spec"]["replicas"], 2);
}

#[test]
fn yaml_and_json_give_the_same_value() {
    let yaml = parse_yaml(b"a: 1\nb: [x, '2', true, null]\nc: {d: 1.5}\n").unwrap();
    assert_eq!(yaml.value, json!({"a": 1, "b": ["x", "2", true, null], "c": {"d": 1.5}}));
    assert_eq!(parse_yaml(b"a: 1\na: 2\n").unwrap().duplicates, ["a"]);
    assert_eq!(parse_yaml(b"{\"a\": {\"b\": [1]}}").unwrap().value, json!({"a": {"b": [1]}}));
}

#[test]
fn broken_bodies_are_errors() {
    for body in [&b""[..], b"{", b"{} x", b"{\"a\":}", b"\xff", b"nul"] {
        assert!(matches!(parse(body), Err(ParseError::Json(_))), "{body:?}");
    }
    assert!(parse_yaml(b"a: [").is_err());
    assert_eq!(parse_yaml(b"\xff"), Err(ParseError::Encoding));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for depth in [150, 1000, 100_000] {
        let body = "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(body.as_bytes()).is_err());
        assert!(parse_yaml(body.as_bytes()).is_err());
        assert!(parse_yaml(("- ".repeat(depth) + "a").as_bytes()).is_err());
        assert!(parse("{\"a\":".repeat(depth).as_bytes()).is_err());
    }
    let body = "[".repeat(45) + &"]".repeat(45);
    assert_eq!(parse(body.as_bytes()).unwrap(), parse_yaml(body.as_bytes()).unwrap());
}

#[test]
fn yaml_aliases_are_refused() {
    assert!(parse_yaml(b"a: &x [1, 2]\nb: *x\n").is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
        let _ = parse_yaml(&body);
    }

    #[test]
    fn arbitrary_json_like_text_never_panics(body in "[\\[\\]{}:,\"a0-9.e\\- \n&*|>]{0,80}") {
        let _ = parse(body.as_bytes());
        let _ = parse_yaml(body.as_bytes());
    }
}
