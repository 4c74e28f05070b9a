//! Whose fault an error is: in the access log and in the metrics, by one word.

use std::path::Path;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_all, statuses};

/// A connection manager that logs flags and details to a file.
fn logging(to: &Path) -> String {
    format!(
        "access_log: [{{ name: f, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ text_format_source: {{ inline_string: \"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n\" }} }} }} }}]\nrequest_headers_timeout: 0.3s\nstream_idle_timeout: 0.3s",
        to.display()
    )
}

/// The last line of the log, once it is there.
async fn line(of: &Path) -> String {
    loop {
        if let Ok(text) = std::fs::read_to_string(of)
            && text.ends_with('\n')
        {
            return text.lines().last().unwrap_or_default().to_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn reason(upstreams: &[std::net::SocketAddr], route: &str, request: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let proxy = Proxy::start(&bootstrap(upstreams, &logging(&log), route, "")).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let _ = read_all(&mut stream).await;
    drop(stream);
    let line = tokio::time::timeout(std::time::Duration::from_secs(5), line(&log)).await.expect("a line");
    let metrics = proxy.admin("GET", "/stats/prometheus").await;
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("envoy_http_downstream_rq_error{"))
        .map(|line| line.split('"').nth(1).unwrap_or_default().to_owned())
        .collect::<Vec<_>>()
        .join(" ");
    (line, counted)
}

#[tokio::test]
async fn every_error_of_our_own_has_its_flag_its_details_and_its_count() {
    let get = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    let closed = HeldPort::bind();
    let echo = Upstream::echo().await;
    let mute = Upstream::scripted(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let garbled = Upstream::canned("SSH-2.0-OpenSSH_9\r\n\r\n").await;
    let gone = Upstream::canned("HTTP/1.1 2").await;
    let cut = Upstream::canned("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    for (upstreams, route, request, flags, details) in [
        (vec![], "", get, "503 UH", "no_healthy_upstream"),
        (
            vec![closed.address],
            "",
            get,
            "503 UF",
            "upstream_reset_before_response_started{remote_connection_failure}",
        ),
        (vec![mute.address], "timeout: 0.3s", get, "504 UT", "upstream_response_timeout"),
        (vec![garbled.address], "", get, "502 UPE", "upstream_reset_before_response_started{protocol_error}"),
        (
            vec![gone.address],
            "",
            get,
            "503 UC",
            "upstream_reset_before_response_started{connection_termination}",
        ),
        (
            vec![cut.address],
            "",
            get,
            "200 UC",
            "upstream_reset_after_response_started{connection_termination}",
        ),
        (
            vec![closed.address],
            "retry_policy: { retry_on: connect-failure, num_retries: 1 }",
            get,
            "503 UF,URX",
            "upstream_reset_before_response_started{remote_connection_failure}",
        ),
        (vec![echo.address], "", "GET /\r\n\r\n", "400 DPE", "http1.codec_error"),
        (vec![echo.address], "", "GET / HTTP/1.1\r\n\r\n", "400 DPE", "missing_host_header"),
        (
            vec![echo.address],
            "",
            "GET /%00 HTTP/1.1\r\nHost: web\r\n\r\n",
            "400 DPE",
            "path_normalization_failed",
        ),
        (vec![echo.address], "", "GET / HTTP/1.1\r\nHost: w", "408 DT", "request_header_timeout"),
        (
            vec![echo.address],
            "",
            "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 9\r\n\r\nabc",
            "408 SI",
            "stream_idle_timeout",
        ),
        (
            vec![echo.address],
            "",
            "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
            "400 DPE",
            "http1.codec_error",
        ),
    ] {
        let (line, counted) = reason(&upstreams, route, request).await;
        assert_eq!(line, format!("{flags} {details}"), "{request:?}");
        assert_eq!(counted, details, "{request:?}");
    }
}

#[tokio::test]
async fn what_the_upstream_says_is_no_error_of_ours() {
    let upstream = Upstream::canned("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
    let (line, counted) = reason(&[upstream.address], "", "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!((line.as_str(), counted.as_str()), ("500 - via_upstream", ""));
}

#[tokio::test]
async fn a_field_with_an_underscore_is_passed_refused_or_dropped_as_configured() {
    let echo = Upstream::echo().await;
    let request = "GET / HTTP/1.1\r\nHost: web\r\nX_Y: 1\r\n\r\n";
    for (action, status, passed) in
        [("ALLOW", "200", true), ("REJECT_REQUEST", "400", false), ("DROP_HEADER", "200", false)]
    {
        let manager =
            format!("common_http_protocol_options: {{ headers_with_underscores_action: {action} }}");
        let proxy = Proxy::start(&bootstrap(&[echo.address], &manager, "", "")).await;
        let answer = raw(proxy.at("http"), request).await;
        assert_eq!(statuses(&answer), [status], "{action}");
        assert_eq!(answer.contains("X_Y: 1"), passed, "{action}: {answer}");
    }
}
