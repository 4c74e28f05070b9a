//! curl with what it can say to a proxy: versions, methods, bodies and forms of request.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_tests::{
    bootstrap::Bootstrap,
    curl::{self, Answer, curl},
    need,
    proxy::Proxy,
    servers::Server,
    upstream::Upstream,
};

/// A proxy with two HTTP listeners before the same server: `http1` speaks HTTP/1 to it and `http2` HTTP/2.
struct Setup {
    proxy: Proxy,
    upstream: Upstream,
}

const HTTP1: &str = "--http1.1";
const HTTP2: &str = "--http2-prior-knowledge";

#[tokio::test]
async fn all_versions_on_both_sides_carry_all_kinds_of_message() -> anyhow::Result<()> {
    need!("curl: versions", curl::find());
    let setup = Setup::start().await?;
    let big = setup.proxy.file("big");
    fs::write(&big, vec![b'u'; 5_000_000])?;
    let upload = format!("@{}", big.display());
    for listener in ["http1", "http2"] {
        for (flag, version) in [(HTTP1, "1.1"), (HTTP2, "2")] {
            let what = format!("{flag} to {listener}");
            let get = async |path: &str, more: &[&str]| -> anyhow::Result<Answer> {
                let answer = curl(&[&[flag, &setup.url(listener, path)?], more].concat()).await?;
                ensure!(answer.exit == 0 && answer.version == version, "{what} {path}: {answer:?}");
                Ok(answer)
            };
            let answer = get("/bytes/1000000", &[]).await?;
            ensure!(answer.status == 200 && answer.body.len() == 1_000_000, "{what}: {}", answer.head);
            ensure!(answer.header("content-length") == "1000000", "{what}: {}", answer.head);
            let answer = get("/bytes/1000", &["--head"]).await?;
            ensure!(answer.status == 200 && answer.header("content-length") == "1000", "{what}: {answer:?}");
            for status in [204, 304, 404, 500, 503] {
                let answer = get(&format!("/status/{status}"), &[]).await?;
                ensure!(answer.status == status && answer.body.is_empty(), "{what}: {answer:?}");
            }
            let answer = get("/chunks/200", &["-H", "te: trailers", "-H", "connection: te"]).await?;
            ensure!(answer.body.len() == 200 * 1024, "{what}: {} bytes", answer.body.len());
            // `te` is not passed on to HTTP/1, so that server was not asked for trailers.
            let trailers = if listener == "http2" { "200" } else { "" };
            ensure!(answer.header("x-pieces") == trailers, "{what}: {}", answer.head);
            let answer = get("/discard", &["--data-binary", &upload]).await?;
            ensure!(answer.text() == "5000000", "{what}: {answer:?}");
            let answer =
                get("/discard", &["-H", "transfer-encoding: chunked", "--data-binary", &upload]).await?;
            ensure!(answer.text() == "5000000", "{what}: {answer:?}");
            let answer =
                get("/echo", &["--form", "field=value", "--form", &format!("file={upload}")]).await?;
            ensure!(answer.body.len() > 5_000_000, "{what}: {} bytes", answer.body.len());
            for method in ["DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
                get("/echo", &["--request", method, "--data", "with a body"]).await?;
                ensure!(setup.upstream.last()?.method == method, "{what}: {:?}", setup.upstream.last());
            }
        }
    }
    setup.finish().await
}

#[tokio::test]
async fn what_is_no_current_http_is_refused_or_answered_as_http_1_1() -> anyhow::Result<()> {
    need!("curl: versions", curl::find());
    let setup = Setup::start().await?;
    let mut stream = TcpStream::connect(setup.proxy.at("http1")?).await?;
    stream.write_all(b"GET /bytes/10\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 400 "), "HTTP/0.9: {answer}");

    let answer = curl(&["--http1.0", &setup.url("http1", "/bytes/10")?]).await?;
    ensure!(answer.status == 200 && answer.body.len() == 10, "HTTP/1.0: {answer:?}");
    // Such a client does not know chunks: the end of the connection is the end of the body.
    let answer = curl(&["--http1.0", &setup.url("http1", "/chunks/10")?]).await?;
    ensure!(answer.body.len() == 10 * 1024 && answer.header("transfer-encoding").is_empty(), "{answer:?}");

    // An offer that need not be taken up.
    let answer = curl(&["--http2", &setup.url("http1", "/bytes/10")?]).await?;
    ensure!(answer.status == 200 && answer.version == "1.1", "h2c upgrade: {answer:?}");
    let asked = setup.upstream.last()?;
    ensure!(asked.header("upgrade").is_empty() && asked.header("http2-settings").is_empty(), "{asked:?}");
    setup.finish().await
}

#[tokio::test]
async fn uploads_of_unknown_length_wait_for_100_continue_and_are_complete() -> anyhow::Result<()> {
    need!("curl: uploads", curl::find());
    let setup = Setup::start().await?;
    let file = setup.proxy.file("upload");
    fs::write(&file, vec![b'u'; 3_000_000])?;
    let file = file.to_string_lossy().into_owned();
    // curl takes "." for a standard input that it does not block on, "-" for one that it does.
    let script = format!("cat {file} | curl -sS --http1.1 -T - {}", setup.url("http1", "/discard")?);
    let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await?;
    ensure!(output.stdout == b"3000000", "{output:?}");
    ensure!(setup.upstream.last()?.header("transfer-encoding") == "chunked", "{:?}", setup.upstream.last());

    let upload = ["--verbose", HTTP1, "-H", "expect: 100-continue", "--expect100-timeout", "60", "-T", &file];
    let answer = curl(&[&upload[..], &[&setup.url("http1", "/discard")?]].concat()).await?;
    ensure!(answer.text() == "3000000" && answer.said.contains("< HTTP/1.1 100"), "{answer:?}");

    // The answer is known before the body: it is not asked for.
    let answer = curl(&[&upload[..], &[&setup.url("http1", "/nowhere")?]].concat()).await?;
    ensure!(answer.status == 404 && !answer.said.contains("< HTTP/1.1 100"), "{answer:?}");
    setup.finish().await
}

#[tokio::test]
async fn a_hundred_megabytes_go_up_and_come_down() -> anyhow::Result<()> {
    need!("curl: large bodies", curl::find());
    let setup = Setup::start().await?;
    let file = setup.proxy.file("upload");
    fs::File::create(&file)?.set_len(100_000_000)?;
    let file = file.to_string_lossy().into_owned();
    curl(&[&setup.url("http1", "/bytes/1000000")?]).await?;
    let before = setup.proxy.resident_kb()?;
    for (flag, listener) in [(HTTP1, "http1"), (HTTP2, "http1"), (HTTP1, "http2"), (HTTP2, "http2")] {
        let answer = curl(&[flag, "-T", &file, &setup.url(listener, "/discard")?]).await?;
        ensure!(answer.text() == "100000000", "{flag} to {listener}: {answer:?}");
        let answer = curl(&[flag, &setup.url(listener, "/bytes/100000000")?]).await?;
        ensure!(
            answer.exit == 0 && answer.body.len() == 100_000_000,
            "{flag} from {listener}: {}",
            answer.head
        );
    }
    let grown = setup.proxy.resident_kb()?.saturating_sub(before);
    ensure!(grown < 30 * 1024, "resident memory grew by {grown} KB");
    setup.finish().await
}

/// What is worth telling of an answer that is not as it should be; bodies may be long.
fn told(answer: &Answer) -> String {
    format!("exit {}, {} bytes of body, {}{}", answer.exit, answer.body.len(), answer.said, answer.head)
}

#[tokio::test]
async fn nginx_behind_the_proxy_serves_ranges_conditions_compression_and_redirects() -> anyhow::Result<()> {
    need!("curl: nginx", curl::find());
    let text: Vec<u8> = (0..20_000u32).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    let config = "gzip on; gzip_types text/plain; gzip_min_length 1;\n\
                  server { listen $LISTEN; root $FILES; absolute_redirect off; default_type text/plain;\n\
                    location = /old { return 301 /text; }\n\
                    location /put/ { return 200 'taken'; } }";
    let nginx = need!("curl: nginx", Server::nginx(config, &[("text", &text), ("empty", b"")]).await);
    let bootstrap =
        Bootstrap::default().http("front", "up", json!({})).cluster("up", &[nginx.address], json!({}));
    let proxy = Proxy::start(bootstrap).await?;
    let (url, base) = (format!("{}/text", proxy.url("front")?), proxy.url("front")?);
    for flag in [HTTP1, HTTP2] {
        let answer = curl(&[flag, "--range", "100-199", &url]).await?;
        ensure!(answer.status == 206 && answer.body == text[100..200], "range: {}", told(&answer));
        let answer = curl(&[flag, "--range", "0-9,100-109", &url]).await?;
        ensure!(answer.status == 206 && answer.header("content-type").contains("multipart/byteranges"));
        let answer = curl(&[flag, "--range", "99999999-", &url]).await?;
        ensure!(answer.status == 416, "range out of reach: {}", told(&answer));
        let answer = curl(&[flag, "--head", &url]).await?;
        ensure!(answer.status == 200 && answer.header("content-length") == text.len().to_string());
        let (etag, date) = (answer.header("etag"), answer.header("last-modified"));
        let answer = curl(&[flag, "-H", &format!("if-none-match: {etag}"), &url]).await?;
        ensure!(answer.status == 304 && answer.body.is_empty(), "etag: {}", told(&answer));
        let answer = curl(&[flag, "-H", &format!("if-modified-since: {date}"), &url]).await?;
        ensure!(answer.status == 304 && answer.body.is_empty(), "date: {}", told(&answer));
        let answer = curl(&[flag, "--compressed", &url]).await?;
        ensure!(answer.body == text && answer.header("content-encoding") == "gzip", "{}", told(&answer));
        let answer = curl(&[flag, &format!("{base}/empty")]).await?;
        ensure!(answer.status == 200 && answer.body.is_empty(), "{}", told(&answer));
        let answer = curl(&[flag, &format!("{base}/old")]).await?;
        ensure!(answer.status == 301 && answer.header("location") == "/text", "{}", told(&answer));
        let answer = curl(&[flag, "--data", "x", &format!("{base}/put/x")]).await?;
        ensure!(answer.text() == "taken", "{}", told(&answer));
        let answer = curl(&[flag, "--continue-at", "12345", &url]).await?;
        ensure!(answer.status == 206 && answer.body == text[12345..], "resume: {}", told(&answer));
    }
    // Not over HTTP/2: curl 7.88, asked for it without TLS, fails on the second request of a connection with any server.
    let answer = curl(&[HTTP1, "--location", &format!("{base}/old")]).await?;
    ensure!(answer.body == text && answer.connections == 1, "{answer:?}");
    proxy.finish().await
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() -> anyhow::Result<()> {
    need!("curl: reuse", curl::find());
    let setup = Setup::start_with(&["--concurrency", "1"]).await?;
    let before = setup.upstream.connections();
    let answer = curl(&[HTTP1, &setup.url("http1", "/bytes/[1-50]")?]).await?;
    ensure!(answer.status == 200 && answer.connections == 1, "{answer:?}");
    ensure!(setup.upstream.connections() - before <= 1, "new connections to the server");
    // At once: over one connection if it is HTTP/2, over several if not.
    let parallel = ["--parallel", "--parallel-max", "50"];
    let url = setup.url("http2", "/slow/[5-54]")?;
    let answer = curl(&[&parallel[..], &[HTTP2, &url]].concat()).await?;
    ensure!(answer.connections == 1, "{} connections", answer.connections);
    let url = setup.url("http1", "/slow/[5-54]")?;
    let answer = curl(&[&parallel[..], &[HTTP1, &url]].concat()).await?;
    ensure!(answer.connections > 10, "{} connections", answer.connections);
    setup.finish().await
}

#[tokio::test]
async fn fields_pass_in_all_their_forms() -> anyhow::Result<()> {
    need!("curl: fields", curl::find());
    let setup = Setup::start().await?;
    let long = format!("x-long: {}", "v".repeat(20_000));
    for listener in ["http1", "http2"] {
        for flag in [HTTP1, HTTP2] {
            let arguments = [
                flag,
                "-H",
                "X-Empty;",
                "-H",
                "x-two: a",
                "-H",
                "x-two: b",
                "-H",
                "x-bytes: größer",
                "-H",
                &long,
                "-H",
                "x-spaces:   much space",
                "-H",
                "x-odd: !#$%&'()*+,/:;=?@[]",
                "--cookie",
                "a=1; b=2",
                "--user",
                "name:secret",
                "--referer",
                "http://from.example/",
                "--user-agent",
                "",
                &setup.url(listener, "/bytes/1?q=%20%2F&empty=&%C3%BC")?,
            ];
            let answer = curl(&arguments).await?;
            ensure!(answer.status == 200, "{flag} to {listener}: {answer:?}");
            let asked = setup.upstream.last()?;
            ensure!(asked.target == "/bytes/1?q=%20%2F&empty=&%C3%BC", "{}", asked.target);
            for (name, value) in [
                ("x-empty", ""),
                ("x-two", "a, b"),
                ("x-bytes", "größer"),
                ("x-spaces", "much space"),
                ("x-odd", "!#$%&'()*+,/:;=?@[]"),
                ("cookie", "a=1; b=2"),
                ("authorization", "Basic bmFtZTpzZWNyZXQ="),
                ("referer", "http://from.example/"),
            ] {
                ensure!(
                    asked.header(name) == value,
                    "{flag} to {listener}: {name}: {:?}",
                    asked.header(name)
                );
            }
            ensure!(asked.headers.contains_key("x-empty") && asked.header("x-long").len() == 20_000);
        }
    }
    // Too much is refused and not passed on.
    let asked = setup.upstream.requests();
    let many: Vec<String> = (0..150).map(|number| format!("x-{number}: v")).collect();
    let many: Vec<&str> = many.iter().flat_map(|field| ["-H", field.as_str()]).collect();
    let huge = format!("x-huge: {}", "v".repeat(70_000));
    for (flag, more) in
        [(HTTP1, &many[..]), (HTTP1, &["-H", &huge]), (HTTP2, &many[..]), (HTTP2, &["-H", &huge])]
    {
        let answer = curl(&[&[flag, &setup.url("http1", "/bytes/1")?], more].concat()).await?;
        // Over HTTP/2 a stream may also be reset instead.
        ensure!(answer.status == 431 || flag == HTTP2 && answer.exit != 0, "{flag}: {answer:?}");
    }
    ensure!(setup.upstream.requests() == asked, "it was passed on");
    setup.finish().await
}

#[tokio::test]
async fn targets_in_all_their_forms_reach_the_server_in_one() -> anyhow::Result<()> {
    need!("curl: targets", curl::find());
    let setup = Setup::start().await?;
    for flag in [HTTP1, HTTP2] {
        for (sent, wanted) in
            [("/a/../b/./c?d=/../e", "/b/c?d=/../e"), ("/a//b", "/a//b"), ("/%61%2fb", "/a%2fb")]
        {
            let answer = curl(&[flag, "--path-as-is", &setup.url("http1", sent)?]).await?;
            // Either it is refused, or it has the one form in which it was routed.
            let came = setup.upstream.last().map(|asked| asked.target).unwrap_or_default();
            ensure!(answer.status == 200 && came == wanted, "{flag} {sent}: {} {came}", answer.status);
        }
        let answer = curl(&[flag, "--path-as-is", &setup.url("http1", "/../../etc/passwd")?]).await?;
        let came = setup.upstream.last()?.target;
        ensure!(answer.status == 400 || !came.contains(".."), "{flag}: {} {came}", answer.status);
    }
    let at = setup.url("http1", "")?;
    let answer = curl(&["--request", "OPTIONS", "--request-target", "*", &at]).await?;
    ensure!(
        answer.status == 200 && setup.upstream.last()?.target == "*",
        "{answer:?} {:?}",
        setup.upstream.last()
    );

    // As the proxy of a client that names another host: the absolute form decides.
    let answer = curl(&["--noproxy", "", "--proxy", &at, "http://other.example/bytes/5?x=1"]).await?;
    let asked = setup.upstream.last()?;
    ensure!(answer.status == 200 && answer.body.len() == 5, "{answer:?}");
    ensure!(asked.target == "/bytes/5?x=1" && asked.header("host") == "other.example", "{asked:?}");
    let asked = setup.upstream.requests();
    let answer =
        curl(&["--noproxy", "", "--proxy", &at, "--proxytunnel", "http://other.example/bytes/5"]).await?;
    ensure!(answer.exit == 56 && answer.head.starts_with("HTTP/1.1 4"), "CONNECT: {answer:?}");
    ensure!(setup.upstream.requests() == asked, "CONNECT was passed on");
    setup.finish().await
}

#[tokio::test]
async fn what_breaks_on_one_side_is_seen_on_the_other_and_nothing_is_left() -> anyhow::Result<()> {
    need!("curl: breaks", curl::find());
    let setup = Setup::start().await?;
    for listener in ["http1", "http2"] {
        // Part of a body must never pass for the whole: 18 is a partial file, 92 a reset stream.
        let answer = curl(&[HTTP1, &setup.url(listener, "/cut/100000")?]).await?;
        ensure!(answer.exit == 18, "{answer:?}");
        let answer = curl(&[HTTP2, &setup.url(listener, "/cut/100000")?]).await?;
        ensure!(answer.exit == 92 || answer.exit == 18, "{answer:?}");
        for flag in [HTTP1, HTTP2] {
            let slow = setup.url(listener, "/slow/100000")?;
            let answer = curl(&[flag, "--max-time", "1", &slow]).await?;
            ensure!(answer.exit == 28, "{answer:?}");
            let answer = curl(&[flag, "--data-binary", "x", &setup.url(listener, "/early")?]).await?;
            // After a complete answer a server ends what is still under way with RST_STREAM and NO_ERROR (RFC 9113 8.1);
            // curl before version 8 takes that for a failure if it was still sending.
            let taken_amiss = flag == HTTP2 && answer.exit == 92;
            ensure!(answer.text() == "early" || taken_amiss, "{answer:?}");
        }
    }
    setup.finish().await
}

// === impl Setup ===

impl Setup {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    async fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let upstream = Upstream::start().await?;
        let at = [upstream.address];
        let routes = |cluster: &str| {
            json!([
                {"match": {"path": "/nowhere"}, "direct_response": {"status": 404}},
                {"match": {"prefix": ""}, "route": {"cluster": cluster, "timeout": "0s"}},
            ])
        };
        let bootstrap = Bootstrap::default()
            .http_routes("http1", routes("up1"), json!({"normalize_path": true}))
            .http_routes("http2", routes("up2"), json!({}))
            .cluster("up1", &at, json!({}))
            .http2_cluster("up2", &at, json!({}));
        Ok(Self { proxy: Proxy::start_with(bootstrap, arguments).await?, upstream })
    }

    fn url(&self, listener: &str, path: &str) -> anyhow::Result<String> {
        Ok(format!("{}{path}", self.proxy.url(listener).context("a listener")?))
    }

    async fn finish(self) -> anyhow::Result<()> {
        for listener in ["http1", "http2"] {
            self.proxy.metric_becomes("envoy_http_downstream_rq_active", listener, 0.0).await?;
            self.proxy.metric_becomes("envoy_http_downstream_cx_active", listener, 0.0).await?;
        }
        self.proxy.metric_becomes("envoy_cluster_upstream_rq_active", "up", 0.0).await?;
        self.proxy.finish().await
    }
}
