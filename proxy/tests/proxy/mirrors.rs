use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    sync::{Semaphore, mpsc},
};

use crate::support::{Proxy, Upstream, bootstrap, raw, read_request, statuses, wait_for_metric};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A cluster beside `up` with this endpoint.
fn second(upstream: &Upstream) -> String {
    format!(
        "    - name: second\n      load_assignment: {{ cluster_name: second, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}\n",
        upstream.address.port()
    )
}

/// An upstream that tells what came, and answers once it has a permit.
async fn listening(permits: &Arc<Semaphore>) -> (Upstream, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let permits = Arc::clone(permits);
    let upstream = Upstream::scripted(move |mut stream, _| {
        let (tell, permits) = (tell.clone(), Arc::clone(&permits));
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                let _ = tell.send(String::from_utf8_lossy(&request).into_owned());
                permits.acquire().await.expect("open").forget();
                let _ = stream.write_all(OK).await;
            }
        }
    })
    .await;
    (upstream, told)
}

#[tokio::test]
async fn a_mirror_gets_the_request_with_its_body_and_never_holds_the_client_up() {
    let up = Upstream::echo().await;
    // Never answers.
    let (mirror, mut told) = listening(&Arc::new(Semaphore::new(0))).await;
    let route = "request_mirror_policies: [{ cluster: second }]";
    let config = bootstrap(&[up.address], "", route, "") + &second(&mirror);
    let proxy = Proxy::start(&config).await;
    let whole = "POST /a HTTP/1.1\r\nHost: web:80\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole";
    assert_eq!(statuses(&raw(proxy.at("http"), whole).await), ["200"]);
    let copy = told.recv().await.expect("a copy");
    assert!(
        copy.starts_with("POST /a HTTP/1.1\r\nhost: web-shadow:80\r\n") && copy.ends_with("\r\n\r\nwhole"),
        "{copy}"
    );
    let chunks = "POST /b HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nin \r\n6\r\npieces\r\n0\r\n\r\n";
    assert_eq!(statuses(&raw(proxy.at("http"), chunks).await), ["200"]);
    let copy = told.recv().await.expect("a copy");
    assert!(
        copy.starts_with("POST /b HTTP/1.1\r\nhost: web-shadow\r\n") && copy.ends_with("\r\n\r\nin pieces"),
        "{copy}"
    );
}

#[tokio::test]
async fn what_is_too_much_for_a_mirror_is_dropped_and_counted() {
    let up = Upstream::echo().await;
    let (mirror, mut told) = listening(&Arc::new(Semaphore::new(100))).await;
    let route = "request_mirror_policies: [{ cluster: second }]";
    let config = bootstrap(&[up.address], "", route, "") + &second(&mirror);
    let proxy = Proxy::start(&config).await;
    let body = "x".repeat(1024 * 1024 + 1);
    let large = format!(
        "POST /large HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(proxy.at("http"), &large).await;
    assert_eq!(statuses(&answer)[0], "200");
    assert!(answer.len() > body.len(), "all of it came to the upstream");
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_mirror_dropped", 1.0).await;
    let small = "GET /small HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&raw(proxy.at("http"), small).await), ["200"]);
    let copy = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.expect("in time");
    assert!(copy.expect("a copy").starts_with("GET /small "), "the first one that came");
}

#[tokio::test]
async fn a_mirror_that_is_not_there_changes_nothing() {
    let up = Upstream::echo().await;
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let route = "request_mirror_policies: [{ cluster: second }]";
    let second = format!(
        "    - name: second\n      load_assignment: {{ cluster_name: second, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}\n",
        closed.port()
    );
    let proxy = Proxy::start(&(bootstrap(&[up.address], "", route, "") + &second)).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    wait_for_metric(&proxy, "envoy_cluster_upstream_cx_connect_fail", 1.0).await;
}
