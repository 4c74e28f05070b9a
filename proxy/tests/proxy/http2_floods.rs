//! Floods over HTTP/2: each ends with GOAWAY, and an ordinary request on another connection does not notice.

use std::{net::SocketAddr, time::Duration};

use tokio::io::AsyncReadExt as _;

use crate::support::{
    Proxy, Upstream, bootstrap,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, HEADERS, PING, PRIORITY, RST_STREAM, Raw,
        SETTINGS, WINDOW_UPDATE, frame, get, request,
    },
    simple,
};

const CALM: u32 = 11;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// An ordinary request is answered in under a second.
async fn assert_served(address: SocketAddr, during: &str) {
    let answered = tokio::time::timeout(Duration::from_secs(1), async {
        let mut raw = Raw::connect(address).await;
        raw.send(&get(1)).await;
        raw.fate().await
    });
    assert_eq!(answered.await, Ok(Fate::Status(200)), "during {during}");
}

/// Repeats `piece` until the proxy ends the connection; how.
async fn flood(address: SocketAddr, first: &[u8], piece: impl Fn(u32) -> Vec<u8>) -> Fate {
    let mut raw = Raw::connect(address).await;
    raw.send(first).await;
    let (mut reader, mut writer) = raw.split();
    let sending = async {
        for index in 0..20_000 {
            if !writer.send(&piece(index)).await {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        fate = reader.end() => fate,
        () = sending => Fate::Nothing,
    }
}

#[tokio::test]
async fn every_flood_is_ended_while_others_are_served() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let address = proxy.at("http");
    let post = frame(HEADERS, END_HEADERS, 1, &request("POST", &[]));
    let half = frame(HEADERS, END_STREAM, 1, &request("GET", &[]));
    type Piece = Box<dyn Fn(u32) -> Vec<u8>>;
    let floods: Vec<(&str, &[u8], Piece)> = vec![
        (
            "rapid reset",
            &[],
            Box::new(|at| [get(2 * at + 1), frame(RST_STREAM, 0, 2 * at + 1, &CANCEL)].concat()),
        ),
        (
            "resets that we are made to send",
            &[],
            Box::new(|at| {
                let open = frame(HEADERS, END_HEADERS, 2 * at + 1, &request("POST", &[]));
                [open, frame(WINDOW_UPDATE, 0, 2 * at + 1, &[0x7f, 0xff, 0xff, 0xff])].concat()
            }),
        ),
        ("CONTINUATION", &half, Box::new(|_| frame(CONTINUATION, 0, 1, &[0; 1000]))),
        ("empty CONTINUATION", &half, Box::new(|_| frame(CONTINUATION, 0, 1, &[]))),
        ("PING", &[], Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS", &[], Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        ("PRIORITY", &[], Box::new(|at| frame(PRIORITY, 0, 2 * at + 1, &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", &[], Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("empty DATA", &post, Box::new(|_| frame(DATA, 0, 1, &[]))),
    ];
    for (name, first, piece) in floods {
        let attack = flood(address, first, piece);
        let (fate, ()) = tokio::join!(attack, assert_served(address, name));
        assert_eq!(fate, Fate::GoAway(CALM), "{name}");
        assert_served(address, name).await;
    }
}

#[tokio::test]
async fn a_header_bomb_is_refused_without_being_unpacked() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let mut raw = Raw::connect(proxy.at("http")).await;
    // One entry of 4000 bytes in the table, and then its index over and over: 60 MB from 16 KB.
    let mut block = request("GET", &[]);
    block.extend([0x40, 1, b'x', 127, 0xa1, 0x1e]);
    block.extend([b'a'; 4000]);
    block.extend([0xbe; 12_000]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    assert_eq!(raw.fate().await, Fate::GoAway(CALM));
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn cookies_count_as_what_they_are_before_they_are_joined() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    for (count, expected) in [(50, 200), (101, 431)] {
        let mut raw = Raw::connect(proxy.at("http")).await;
        let block = request("GET", &vec![("cookie", "a=b"); count]);
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        assert_eq!(raw.fate().await, Fate::Status(expected), "{count} cookies");
    }
}

#[tokio::test]
async fn a_client_that_gives_no_window_loses_its_stream_and_one_that_reads_nothing_its_connection() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            let piece = vec![0; 64 * 1024];
            while stream.write_all(&piece).await.is_ok() {}
        }
    })
    .await;
    let manager = "stream_idle_timeout: 1s";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], manager, "", "")).await;
    let mut raw = Raw::with_settings(proxy.at("http"), &[(4, 0)]).await;
    raw.send(&get(1)).await;
    assert_eq!(raw.fate().await, Fate::Status(200));
    assert_eq!(raw.fate().await, Fate::Reset(8), "no window, no stream");

    let mut raw = Raw::with_settings(proxy.at("http"), &[(4, 0x7fff_ffff)]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes())).await;
    raw.send(&get(1)).await;
    while proxy.metric("envoy_http_downstream_cx_active").await > 1.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
