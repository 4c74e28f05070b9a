use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{defaults, registry, schema, validate};

/// `runtime.Unknown` around an object, for short inputs.
fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = field(1, api_version.as_bytes());
    type_meta.extend(field(2, kind.as_bytes()));
    let mut out = MAGIC.to_vec();
    out.extend(field(1, &type_meta));
    out.extend(field(2, raw));
    out
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend(bytes);
    out
}

#[test]
fn explicit_zeros_stay_where_they_mean_something() {
    // DeleteOptions{gracePeriodSeconds: 0, orphanDependents: false, propagationPolicy: "Background"}
    let mut raw = vec![1 << 3, 0, 3 << 3, 0];
    raw.extend(field(4, b"Background"));
    assert_eq!(
        decode(&body("v1", "DeleteOptions", &raw)).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "orphanDependents": false,
            "propagationPolicy": "Background",
        })
    );
    // PodSpec{restartPolicy: "", hostNetwork: false, terminationGracePeriodSeconds: -1}
    let spec =
        [field(3, b""), vec![11 << 3, 0, 4 << 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]].concat();
    let pod = decode(&body("v1", "Pod", &field(2, &spec))).unwrap();
    assert_eq!(pod["spec"], json!({"terminationGracePeriodSeconds": -1}));
}

#[test]
fn unknown_kinds_and_broken_bytes_are_errors() {
    assert_eq!(decode(b"{}"), Err(DecodeError::Magic));
    assert!(matches!(decode(&body("v1", "Gadget", b"")), Err(DecodeError::UnknownKind { .. })));
    assert!(matches!(decode(&body("v1", "Pod", &[0x12, 0x7f])), Err(DecodeError::Malformed { .. })));
    let bad_text = field(1, &field(1, b"\xff"));
    assert_eq!(
        decode(&body("v1", "Pod", &bad_text)).unwrap_err().to_string(),
        "malformed protobuf at \"metadata.name\": text is not UTF-8"
    );
}

#[test]
fn newer_fields_are_skipped() {
    let raw = [field(15, b"later"), field(1, &field(1, b"a"))].concat();
    assert_eq!(decode(&body("v1", "Pod", &raw)).unwrap()["metadata"], json!({"name": "a"}));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode(&body("v1", "Pod", &raw));
        let _ = decode(&body("apps/v1", "Deployment", &raw));
        let _ = decode(&[MAGIC, &raw].concat());
    }
}

/// What kubectl 1.33 sends, with what the same command prints with `--dry-run=client -o json`; `job-from` is a job from a
/// cronjob that uses as many fields as possible. The reviews and the token request cannot be printed and were read by hand.
macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../testdata/", $name, ".pb")).as_slice(),
            include_str!(concat!("../../testdata/", $name, ".json")),
        )
    };
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn goldens() -> [(&'static str, &'static [u8], &'static str); 14] {
    [
        golden!("namespace"),
        golden!("deployment"),
        golden!("configmap"),
        golden!("secret"),
        golden!("job"),
        golden!("job-from"),
        golden!("service"),
        golden!("externalname"),
        golden!("serviceaccount"),
        golden!("can-i"),
        golden!("can-i-url"),
        golden!("can-i-list"),
        golden!("whoami"),
        golden!("token"),
    ]
}

#[test]
fn what_kubectl_sends_decodes_to_what_it_prints() {
    for (name, body, expected) in goldens() {
        let mut expected: Value = serde_json::from_str(expected).unwrap();
        without_nulls(&mut expected);
        assert_eq!(decode(body).unwrap(), expected, "{name}");
    }
}

#[test]
fn what_kubectl_sends_passes_the_checks_of_its_kind() {
    for (name, body, _) in goldens() {
        let mut object = decode(body).unwrap();
        let (group, version) = split_api_version(object["apiVersion"].as_str().unwrap());
        let Some(resource) = registry::by_kind(group, version, object["kind"].as_str().unwrap()) else {
            continue;
        };
        assert_eq!(schema::check(resource, &object), schema::SchemaReport::default(), "{name}");
        defaults::apply(resource, &mut object);
        assert_eq!(validate::create(resource, &object), [], "{name}");
        object["metadata"]["uid"] = "u".into();
        defaults::on_create(resource, &mut object);
        assert_eq!(schema::check(resource, &object), schema::SchemaReport::default(), "{name}");
    }
}
