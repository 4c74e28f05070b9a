//! Filters that see bodies.

use std::{io::Read as _, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};

use crate::{
    filters::{HTTP, TO_UP, filter, filtered},
    support::{Proxy, Upstream, read_request, statuses},
};

const COMPRESSION: &str = "type.googleapis.com/envoy.extensions.compression";

/// A compressor as a line of flow YAML.
fn compressor(name: &str, library: &str, fields: &str) -> String {
    let message = match library {
        "gzip" => "Gzip",
        "brotli" => "Brotli",
        _ => "Zstd",
    };
    let library = format!(
        "compressor_library: {{ name: lib, typed_config: {{ \"@type\": {COMPRESSION}.{library}.compressor.v3.{message} }} }}"
    );
    filter(name, "compressor.v3.Compressor", &format!("{library}, {fields}"))
}

/// An answer: its head, and its body without the framing.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn has(&self, line: &str) -> bool {
        self.head.lines().any(|other| other.eq_ignore_ascii_case(line))
    }

    fn gunzipped(&self) -> String {
        let mut text = String::new();
        flate2::bufread::GzDecoder::new(&*self.body).read_to_string(&mut text).expect("gzip");
        text
    }
}

/// Sends this and reads the one answer to its end.
async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request).await.expect("writes");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("reads");
    let end = find(&all, b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let body = if head.contains("transfer-encoding: chunked") {
        unchunked(&all[end..])
    } else {
        all[end..].to_vec()
    };
    Answer { head, body }
}

async fn get(address: SocketAddr, target: &str, fields: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n{fields}\r\n");
    exchange(address, request.as_bytes()).await
}

fn unchunked(mut text: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = find(text, b"\r\n").expect("a size");
        let size =
            usize::from_str_radix(std::str::from_utf8(&text[..line]).expect("digits"), 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&text[line + 2..][..size]);
        text = &text[line + 2 + size + 2..];
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

const HUNDRED: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=x\r\netag: \"abc\"\r\ncontent-length: 100\r\n\r\n\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn answers_are_compressed_for_clients_that_read_them_so_and_caches_are_told() {
    let up = Upstream::canned(HUNDRED).await;
    let response = "response_direction_config: { common_config: { min_content_length: 50 } }";
    let gzip = compressor("gzip", "gzip", response);
    let off = format!("comp_off: {{ \"@type\": {HTTP}.compressor.v3.CompressorPerRoute, disabled: true }}")
        .replace("comp_off", "gzip");
    let routes = [
        format!("{{ match: {{ path: /off }}, route: {{ cluster: up }}, typed_per_filter_config: {{ {off} }} }}"),
        "{ match: { path: /direct }, direct_response: { status: 200, body: { inline_string: 'a text of our own, which is long enough to be compressed' } } }".to_owned(),
        TO_UP.to_owned(),
    ];
    let routes: Vec<_> = routes.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&filtered(up.address, &[&gzip], &routes)).await;
    let http = proxy.at("http");
    let small = get(http, "/", "accept-encoding: br, gzip\r\n").await;
    assert!(small.has("content-encoding: gzip") && small.has("vary: Accept-Encoding"), "{}", small.head);
    assert!(!small.head.contains("content-length") && !small.head.contains("etag"), "{}", small.head);
    assert_eq!(small.gunzipped(), "a".repeat(100));
    let plain = get(http, "/", "").await;
    assert!(
        plain.has("content-length: 100") && plain.has("etag: \"abc\"") && plain.has("vary: Accept-Encoding")
    );
    let head =
        exchange(http, b"HEAD / HTTP/1.1\r\nhost: w\r\nconnection: close\r\naccept-encoding: gzip\r\n\r\n")
            .await;
    assert!(head.has("content-length: 100") && head.has("vary: Accept-Encoding") && head.body.is_empty());
    assert!(!head.head.contains("content-encoding"), "{}", head.head);
    let off = get(http, "/off", "accept-encoding: gzip\r\n").await;
    assert!(off.has("content-length: 100") && !off.head.contains("vary"), "{}", off.head);
    let direct = get(http, "/direct", "accept-encoding: gzip\r\n").await;
    assert!(direct.gunzipped().starts_with("a text of our own"), "{}", direct.head);
    let old = exchange(http, b"GET / HTTP/1.0\r\naccept-encoding: gzip\r\n\r\n").await;
    assert_eq!(old.gunzipped(), "a".repeat(100), "{}", old.head);
    let metric = async |name: &str| proxy.metric(&format!("envoy_http_compressor_lib_gzip_{name}")).await;
    assert_eq!(metric("response_compressed").await, 3.0);
    assert_eq!(metric("response_not_compressed").await, 3.0);
    assert_eq!(metric("header_compressor_used").await, 3.0);
    assert_eq!(metric("no_accept_header").await, 1.0);
    assert_eq!(metric("response_total_uncompressed_bytes").await, 256.0);
    assert_eq!(proxy.metric("envoy_cluster_upstream_cx_rx_bytes_total").await, 400.0, "as it came");
}

#[tokio::test]
async fn of_several_compressors_one_compresses_what_the_client_likes_best() {
    let up = Upstream::canned(HUNDRED).await;
    let chain = [
        compressor("gzip", "gzip", "choose_first: true"),
        compressor("br", "brotli", "response_direction_config: { weaken_etag_on_compress: true }"),
        compressor("zstd", "zstd", "response_direction_config: { remove_accept_encoding_header: true }"),
    ];
    let chain: Vec<_> = chain.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&filtered(up.address, &chain, &[TO_UP])).await;
    for (accepted, coding) in
        [("br, gzip", "gzip"), ("br;q=0.9, gzip;q=0.8", "br"), ("gzip;q=0.1, zstd", "zstd"), ("*", "gzip")]
    {
        let answer = get(proxy.at("http"), "/", &format!("accept-encoding: {accepted}\r\n")).await;
        assert!(answer.has(&format!("content-encoding: {coding}")), "{accepted}: {}", answer.head);
        assert_eq!(answer.has("etag: W/\"abc\""), coding == "br", "{}", answer.head);
        assert_eq!(answer.head.matches("content-encoding").count(), 1);
    }
    assert_eq!(proxy.metric("envoy_http_compressor_lib_brotli_header_compressor_overshadowed").await, 2.0);
    let echo = Upstream::echo().await;
    let proxy = Proxy::start(&filtered(echo.address, &chain, &[TO_UP])).await;
    let request = get(proxy.at("http"), "/", "accept-encoding: identity\r\n").await;
    assert!(!String::from_utf8_lossy(&request.body).contains("accept-encoding"), "the upstream is not told");
}

#[tokio::test]
async fn an_event_is_not_held_back_by_a_compressor() {
    let (go_on, went_on) = oneshot::channel::<()>();
    let went_on = std::sync::Mutex::new(Some(went_on));
    let up = Upstream::scripted(move |mut stream, _| {
        let went_on = went_on.lock().expect("a lock").take();
        async move {
            let _ = read_request(&mut stream, &mut Vec::new()).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await;
            if let Some(went_on) = went_on {
                let _ = went_on.await;
            }
            let _ = stream.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let types = "response_direction_config: { common_config: { content_type: [text/event-stream] } }";
    let gzip = compressor("gzip", "gzip", types);
    let proxy = Proxy::start(&filtered(up.address, &[&gzip], &[TO_UP])).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    let request = "GET / HTTP/1.1\r\nhost: w\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut all = Vec::new();
    // The first event is readable before the second is sent.
    loop {
        assert_ne!(stream.read_buf(&mut all).await.expect("reads"), 0, "ended");
        let Some(end) = find(&all, b"\r\n\r\n") else { continue };
        let so_far = [&all[end + 4..], b"0\r\n\r\n"].concat();
        if so_far.len() < 10 || !all.ends_with(b"\r\n") || all.len() == end + 4 {
            continue;
        }
        let mut event = [0; 9];
        let body = unchunked(&so_far);
        if flate2::bufread::GzDecoder::new(&*body).read_exact(&mut event).is_ok() {
            assert_eq!(&event, b"data: 1\n\n");
            break;
        }
    }
    go_on.send(()).expect("the upstream waits");
    stream.read_to_end(&mut all).await.expect("reads");
    let end = find(&all, b"\r\n\r\n").expect("a head") + 4;
    let answer = Answer { head: String::new(), body: unchunked(&all[end..]) };
    assert_eq!(answer.gunzipped(), "data: 1\n\ndata: 2\n\n");
}

#[tokio::test]
async fn a_body_is_sent_on_when_it_is_all_there_and_refused_when_it_is_too_long() {
    let up = Upstream::echo().await;
    let buffer = filter("buffer", "buffer.v3.Buffer", "max_request_bytes: 10");
    let own = |fields: &str| {
        format!(
            "typed_per_filter_config: {{ buffer: {{ \"@type\": {HTTP}.buffer.v3.BufferPerRoute, {fields} }} }}"
        )
    };
    let routes = [
        format!("{{ match: {{ path: /off }}, route: {{ cluster: up }}, {} }}", own("disabled: true")),
        format!(
            "{{ match: {{ path: /more }}, route: {{ cluster: up }}, {} }}",
            own("buffer: { max_request_bytes: 12 }")
        ),
        TO_UP.to_owned(),
    ];
    let routes: Vec<_> = routes.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&filtered(up.address, &[&buffer], &routes)).await;
    let post = async |target: &str, framing: &str| {
        let request = format!("POST {target} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n{framing}");
        exchange(proxy.at("http"), request.as_bytes()).await
    };
    let chunked = "transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nfghij\r\n0\r\n\r\n";
    let too_long = "transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n6\r\nfghijk\r\n0\r\n\r\n";
    let answer = post("/", chunked).await;
    let seen = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(seen.contains("content-length: 10\r\n") && seen.ends_with("\r\n\r\nabcdefghij"), "{seen}");
    assert!(!seen.contains("transfer-encoding"), "{seen}");
    let refused = post("/", too_long).await;
    assert_eq!(statuses(&refused.head), ["413"]);
    assert_eq!(String::from_utf8_lossy(&refused.body), "Payload Too Large");
    assert_eq!(statuses(&post("/", "content-length: 11\r\n\r\nabcdefghijk").await.head), ["413"]);
    assert_eq!(statuses(&post("/more", too_long).await.head), ["200"]);
    let off = post("/off", too_long).await;
    assert!(String::from_utf8_lossy(&off.body).contains("transfer-encoding: chunked"), "{}", off.head);
    assert_eq!(statuses(&get(proxy.at("http"), "/", "").await.head), ["200"]);
}

#[tokio::test]
async fn a_body_that_was_waited_for_can_be_sent_again() {
    // The first connection is closed in the middle of the request, the second answers.
    let up = Upstream::scripted(|mut stream, number| async move {
        let mut buffer = Vec::new();
        let Some(request) = read_request(&mut stream, &mut buffer).await else { return };
        if number > 0 {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
            let _ = stream.write_all(&[head.as_bytes(), &request].concat()).await;
        }
    })
    .await;
    let buffer = filter("buffer", "buffer.v3.Buffer", "max_request_bytes: 100");
    let retried =
        "{ match: { prefix: / }, route: { cluster: up, retry_policy: { retry_on: reset, num_retries: 2 } } }";
    let proxy = Proxy::start(&filtered(up.address, &[&buffer], &[retried])).await;
    let request = "PUT / HTTP/1.1\r\nhost: w\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = exchange(proxy.at("http"), request.as_bytes()).await;
    assert_eq!(statuses(&answer.head), ["200"], "{}", answer.head);
    assert!(answer.body.ends_with(b"\r\n\r\nabc"));
    assert_eq!(up.connections(), 2);
}
