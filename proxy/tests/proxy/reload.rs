//! Configuration from a control plane, changed under load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_xds::ResourceType;

use crate::support::{
    Proxy, Upstream,
    control::{Control, any, eventually, free_port, named, snapshot},
    raw, statuses,
};

/// Keeps one connection busy until told to stop; counts answers and failures.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>, good: Arc<AtomicUsize>, bad: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut buffer = vec![0; 4096];
    while !stop.load(Ordering::SeqCst) {
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        let answer = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let counter = if sent.is_ok() && answer.starts_with("HTTP/1.1 200") { &good } else { &bad };
        counter.fetch_add(1, Ordering::SeqCst);
        if answer.contains("connection: close") || count == 0 {
            stream = TcpStream::connect(address).await.expect("connects again");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_and_listeners_change_under_load_without_one_failed_request() {
    let control = Control::start().await;
    let (a, b) = (Upstream::echo().await, Upstream::echo().await);
    let port = free_port();
    control.cache.set("p", snapshot(port, "one", &[a.address]));
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("endpoints", async || {
        statuses(&raw(address, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await) == ["200"]
    })
    .await;
    let (stop, good, bad) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(address, Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad))))
        .collect();
    for round in 0..6 {
        let upstreams: &[SocketAddr] = match round % 3 {
            0 => &[a.address, b.address],
            1 => &[b.address],
            _ => &[a.address],
        };
        let prefix = if round % 2 == 0 { "one" } else { "two" };
        control.cache.set("p", snapshot(port, prefix, upstreams));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("the client ran");
    }
    assert!(good.load(Ordering::SeqCst) > 50);
    assert_eq!(bad.load(Ordering::SeqCst), 0, "of {}", good.load(Ordering::SeqCst));
    assert!(b.connections() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_with_its_field_and_the_last_good_one_stays() {
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let port = free_port();
    let good = snapshot(port, "one", &[upstream.address]);
    control.cache.set("p", good.clone());
    let proxy = Proxy::start(&control.bootstrap()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let works = async || {
        TcpStream::connect(address).await.is_ok()
            && statuses(&raw(address, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await)
                == ["200"]
    };
    eventually("ready", works).await;
    let mut broken = good.clone();
    broken.clusters = named(
        "c",
        any(
            "envoy.config.cluster.v3.Cluster",
            json!({
                "name": "c", "type": "EDS", "lb_policy": "LOAD_BALANCING_POLICY_CONFIG", "eds_cluster_config": {"eds_config": {"ads": {}}},
            }),
        ),
    );
    control.cache.set("p", broken);
    eventually("a refusal", async || {
        let status = control.cache.status("p").expect("known");
        status.types.get(&ResourceType::Cluster).and_then(|status| status.last_nack.as_ref()).is_some_and(
            |nack| {
                nack.resources.iter().any(|one| one.reason.contains("load_balancing_policy"))
                    || nack.message.contains("load_balancing_policy")
            },
        )
    })
    .await;
    assert!(works().await);
    // Without its control plane it serves on, and a listener that is taken away is closed.
    let mut empty = good;
    empty.listeners.clear();
    control.cache.set("p", empty);
    eventually("the listener is closed", async || TcpStream::connect(address).await.is_err()).await;
    drop(control);
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
}
