use super::*;
use crate::http::{
    exchange::{Reason, Record},
    h1::parse,
    head::Head,
};

/// The line for a request with this value of its field `x-what`.
fn line_with(format: &Format, what: &[u8], record: &Record) -> Vec<u8> {
    let mut head = Head::default();
    parse::request(b"GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n", &mut head, 100).expect("valid");
    head.append(b"x-what", what);
    let entry = Entry {
        request: Some(&head),
        response: None,
        status: record.status,
        record,
        duration: std::time::Duration::from_millis(12),
        peer: ([127, 0, 0, 1], 5).into(),
        local: ([127, 0, 0, 1], 6).into(),
        connection: 7,
        tls: None,
    };
    let mut out = Vec::new();
    format.write(&entry, &mut out);
    out
}

fn line(format: &Format) -> String {
    let record = Record { status: 200, bytes_sent: 5, ..Record::default() };
    String::from_utf8(line_with(format, b"te\x01\"st", &record)).expect("text")
}

fn json(format: Json) -> Format {
    Format::json(format.as_object().expect("an object")).expect("valid")
}

#[test]
fn text_has_the_values_and_no_control_characters() {
    let format = Format::text(
        "%REQ(:METHOD)% %REQ(X-NO?:PATH):2% %RESPONSE_CODE% %RESPONSE_FLAGS% %% %REQ(x-what)% %DURATION% \
         %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_PORT% %CONNECTION_ID% %RESPONSE_CODE_DETAILS%\n",
    );
    assert_eq!(line(&format.expect("valid")), "GET /a 200 - % te \"st 12 127.0.0.1:5 6 7 via_upstream\n");
    assert!(Format::text(DEFAULT).is_ok());
}

#[test]
fn json_is_what_envoy_writes_for_the_same_format() {
    // The shape of the answer of Envoy 1.40 to this format.
    let format = json(serde_json::json!({
        "code": "%RESPONSE_CODE%", "two": "%RESPONSE_CODE% x",
        "in": {"ms": "%DURATION%", "no": "%REQ(x-no)%", "f": "%RESPONSE_FLAGS%", "g": "a%REQ(x-no)%"},
        "n": 5, "b": true, "l": ["%PROTOCOL%", 1], "ua": "%REQ(x-what)%", "s": "%BYTES_SENT%",
        "dl": "%DOWNSTREAM_LOCAL_PORT%", "cid": "%CONNECTION_ID%"
    }));
    assert_eq!(
        line(&format),
        "{\"b\":true,\"cid\":7,\"code\":200,\"dl\":6,\"in\":{\"f\":\"-\",\"g\":\"a-\",\"ms\":12,\"no\":null},\
         \"l\":[\"HTTP/1.1\",1],\"n\":5,\"s\":5,\"two\":\"200 x\",\"ua\":\"te\\u0001\\\"st\"}\n"
    );
}

#[test]
fn what_is_empty_can_be_left_out() {
    let format = json(serde_json::json!({
        "code": "%RESPONSE_CODE%", "in": {"no": "%REQ(x-no)%", "g": "a%REQ(x-no)%b"}
    }));
    assert_eq!(line(&format.omit_empty(true)), "{\"code\":200,\"in\":{\"g\":\"ab\"}}\n");
    let text = Format::text("[%REQ(x-no)%]").expect("valid").omit_empty(true);
    assert_eq!(line(&text), "[]");
}

#[test]
fn any_bytes_make_one_line_of_valid_json() {
    let format = json(serde_json::json!({"it": "%REQ(x-what)%", "in": "<%REQ(x-what)%>"}));
    let all: Vec<u8> = (0..=255).collect();
    let line = line_with(&format, &all, &Record::default());
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let value: Json = serde_json::from_slice(&line).expect("json");
    assert_eq!(value["in"], format!("<{}>", value["it"].as_str().expect("text")));
}

#[test]
fn flags_are_said_short_and_long() {
    let record = Record { reason: Reason::NoHealthyUpstream, retries_exhausted: true, ..Record::default() };
    let format = Format::text("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%").expect("valid");
    assert_eq!(line_with(&format, b"", &record), b"UH,URX NoHealthyUpstream,UpstreamRetryLimitExceeded");
}

#[test]
fn every_flag_there_is_has_a_long_form() {
    for reason in Reason::ALL {
        let flag = reason.flag();
        assert!(flag.is_empty() || super::super::operator::is_flag(flag), "{flag}");
    }
}

#[test]
fn an_unknown_operator_is_named() {
    for operator in ["NO_SUCH", "PROTOCOL(x)", "FILTER_STATE(a:b)", "REQ(a"] {
        let error = Format::text(&format!("a %{operator}% b")).expect_err(operator);
        assert!(error.contains(&operator[..5]), "{error}");
    }
    assert!(Format::text("100%").is_err());
}
