use proptest::prelude::*;
use serde_json::json;

use super::*;

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
