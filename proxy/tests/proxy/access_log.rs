use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::{Value, json};
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw};

/// A file logger; `rest` follows in the log's own mapping, `format` in that of the logger.
pub(crate) fn log(path: &Path, rest: &str, format: &str) -> String {
    format!(
        r#"access_log:
  - name: file
{rest}    typed_config:
      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
      path: {}
      {format}
"#,
        path.display()
    )
}

/// The lines of a file once there are so many.
pub(crate) async fn lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(std::time::Instant::now() < deadline, "there are only these: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(proxy: &Proxy, path: &str) -> String {
    raw(
        proxy.at("http"),
        &format!("GET {path} HTTP/1.1\r\nHost: w\r\nUser-Agent: t\"1\r\nConnection: close\r\n\r\n"),
    )
    .await
}

#[tokio::test]
async fn a_request_is_a_line_of_json_with_typed_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let format = "log_format: { json_format: { code: '%RESPONSE_CODE%', path: '%REQ(:PATH)%', agent: '%REQ(User-Agent)%', \
                  no: '%REQ(x-no)%', to: { cluster: '%UPSTREAM_CLUSTER%', host: '%UPSTREAM_HOST%' }, details: '%RESPONSE_CODE_DETAILS%', \
                  length: '%RESP(content-length)%', id: '%CONNECTION_ID%', at: '%START_TIME(%s)%' } }";
    let upstream = Upstream::canned("HTTP/1.1 201 Made\r\ncontent-length: 2\r\n\r\nok").await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], &log(&path, "", format), "", "")).await;
    get(&proxy, "/a?b").await;
    let line = lines(&path, 1).await.remove(0);
    let mut value: Value = serde_json::from_str(&line).expect("json");
    let at = value["at"].take().as_str().and_then(|at| at.parse::<i64>().ok()).expect("seconds");
    assert!(at > 1_700_000_000, "{at}");
    assert!(value["id"].take().is_u64(), "{line}");
    assert_eq!(
        value,
        json!({"code": 201, "path": "/a?b", "agent": "t\"1", "no": null, "details": "via_upstream", "length": "2",
            "to": {"cluster": "up", "host": upstream.address.to_string()}, "at": null, "id": null})
    );
}

#[tokio::test]
async fn only_what_the_filter_lets_pass_is_logged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let filter = r#"    filter:
      or_filter:
        filters:
          - response_flag_filter: { flags: [UF] }
          - and_filter:
              filters:
                - status_code_filter: { comparison: { op: GE, value: { default_value: 200, runtime_key: a } } }
                - header_filter: { header: { name: x-log, string_match: { exact: "yes" } } }
                - not_health_check_filter: {}
"#;
    let format =
        "log_format: { text_format_source: { inline_string: \"%REQ(:PATH)% %RESPONSE_FLAGS%\\n\" } }";
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], &log(&path, filter, format), "", "")).await;
    get(&proxy, "/unseen").await;
    raw(proxy.at("http"), "GET /seen HTTP/1.1\r\nHost: w\r\nX-Log: yes\r\nConnection: close\r\n\r\n").await;
    proxy.server.stop().await;
    assert_eq!(std::fs::read_to_string(&path).expect("a log"), "/seen -\n");
    let nobody = HeldPort::bind();
    let proxy = Proxy::start(&bootstrap(&[nobody.address], &log(&path, filter, format), "", "")).await;
    get(&proxy, "/failed").await;
    proxy.server.stop().await;
    assert_eq!(std::fs::read_to_string(&path).expect("a log"), "/seen -\n/failed UF\n");
}

#[tokio::test]
async fn stopping_writes_every_line_and_rotation_loses_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let format = "log_format: { text_format_source: { inline_string: \"%REQ(:PATH)%\\n\" } }";
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], &log(&path, "", format), "", "")).await;
    for number in 0..20 {
        get(&proxy, &format!("/{number}")).await;
        if number == 9 {
            lines(&path, 10).await;
            std::fs::rename(&path, &moved).expect("moves");
            assert_eq!(proxy.admin("POST", "/reopen_logs").await, "OK\n");
        }
    }
    proxy.server.stop().await;
    // Each worker hands its lines over by itself: between two of them there is no order.
    let numbers = |lines: Vec<String>| -> BTreeSet<u32> {
        lines.iter().map(|line| line[1..].parse().expect("a number")).collect()
    };
    let (old, new) = (numbers(lines(&moved, 1).await), numbers(lines(&path, 1).await));
    assert_eq!((old, new), ((0..10).collect(), (10..20).collect()));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_costs_lines_and_no_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    // Held open and never read: the writer is stuck when the pipe is full.
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("opens both ways");
    let wide = "x".repeat(8 * 1024);
    let format = format!("log_format: {{ text_format_source: {{ inline_string: \"{wide}\\n\" }} }}");
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], &log(&path, "", &format), "", "")).await;
    let requests = "GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(400);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while proxy.metric("envoy_access_log_file_lines_dropped").await == 0.0 {
        assert!(std::time::Instant::now() < deadline, "no line was ever dropped");
        let answers = raw(proxy.at("http"), &requests).await;
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 400, "every request is answered");
    }
    assert!(proxy.metric("envoy_access_log_file_write_total_buffered").await < 4.0 * 1024.0 * 1024.0);
    // With the reader gone the writer gets an error instead of waiting, so that the test ends.
    drop(reader);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let path = Path::new("/dev/null");
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.access_log[0]";
    for (filter, format, expected) in [
        (
            "",
            "log_format: { text_format_source: { inline_string: \"%NOPE%\" } }",
            "text_format_source: operator %NOPE%",
        ),
        (
            "",
            "log_format: { json_format: { a: [{ b: \"%UPSTREAM_METADATA(a)%\" }] } }",
            "operator %UPSTREAM_METADATA(a)%",
        ),
        ("    filter: { traceable_filter: {} }\n", "", "filter.traceable_filter"),
        ("    filter: { grpc_status_filter: {} }\n", "", "filter.grpc_status_filter"),
        (
            "    filter: { response_flag_filter: { flags: [XX] } }\n",
            "",
            "response_flag_filter.flags[0]: \"XX\"",
        ),
        (
            "    filter: { or_filter: { filters: [{ not_health_check_filter: {} }] } }\n",
            "",
            "or_filter.filters",
        ),
    ] {
        let yaml = bootstrap(&[], &log(path, filter, format), "", "");
        let error =
            validate(parse_bootstrap(&yaml, Format::Yaml).expect("parses")).expect_err(filter).to_string();
        assert!(error.starts_with(manager) && error.contains(expected), "{error}");
    }
}
