//! A control plane that is reached over TLS, and knows who asks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Proxy, Upstream,
    control::{Control, eventually, free_port, snapshot},
    pki::{self, Authority, Leaf},
    raw, statuses,
};

/// Speaks TLS before `control`, with clients of this authority only; where that is, and how many attempts failed.
async fn before(control: &Control, leaf: &Leaf, clients: &Authority) -> (SocketAddr, Arc<AtomicUsize>) {
    let mut config = pki::server(leaf, Some(clients));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let to = control.address;
    let failures = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failures);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    count.fetch_add(1, Ordering::SeqCst);
                    return;
                };
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return;
                }
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = copy_bidirectional(&mut stream, &mut server).await;
                }
            });
        }
    });
    (address, failures)
}

/// A proxy whose control plane is there, believed if it is of this authority and named `ads.test`.
fn bootstrap(at: SocketAddr, authority: &Authority, own: &Leaf) -> String {
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "ads.test",
        "common_tls_context": {
            "tls_certificates": [{
                "certificate_chain": {"inline_string": own.certificate},
                "private_key": {"inline_string": own.key},
            }],
            "validation_context": {
                "trusted_ca": {"inline_string": authority.pem()},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "ads.test"}}],
            },
        },
    });
    let cluster = json!({
        "name": "control", "type": "STATIC",
        "transport_socket": {"name": "tls", "typed_config": context},
        "load_assignment": {"cluster_name": "control", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}}}}]}]},
    });
    let server = json!([{"envoy_grpc": {"cluster_name": "control"}}]);
    let dynamic = json!({
        "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": server},
        "lds_config": {"ads": {}}, "cds_config": {"ads": {}},
    });
    format!(
        "node: {{ id: p, cluster: test }}\nstatic_resources: {}\ndynamic_resources: {dynamic}\n",
        json!({"clusters": [cluster]})
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_is_reached_over_tls_if_each_side_believes_the_other() {
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let own = authority.leaf(&["proxy.test"]);
    let port = free_port();
    control.cache.set("p", snapshot(port, "one", &[upstream.address]));

    let bad =
        [(authority.leaf(&["other.test"]), "another name"), (other.leaf(&["ads.test"]), "another authority")];
    for (leaf, what) in &bad {
        let (at, failures) = before(&control, leaf, &authority).await;
        let proxy = Proxy::start(&bootstrap(at, &authority, &own)).await;
        eventually(what, async || failures.load(Ordering::SeqCst) > 0).await;
        assert_eq!(proxy.metric("envoy_control_plane_connected_state").await, 0.0, "{what}");
        assert!(control.cache.status("p").is_none(), "{what}");
    }
    let (at, failures) = before(&control, &authority.leaf(&["ads.test"]), &authority).await;
    let stranger = Proxy::start(&bootstrap(at, &authority, &other.leaf(&["proxy.test"]))).await;
    eventually("a stranger is refused", async || failures.load(Ordering::SeqCst) > 0).await;
    let proxy = Proxy::start(&bootstrap(at, &authority, &own)).await;
    eventually("traffic", async || {
        let Ok(socket) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
        drop(socket);
        statuses(
            &raw(([127, 0, 0, 1], port).into(), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
                .await,
        ) == ["200"]
    })
    .await;
    assert_eq!(proxy.metric("envoy_control_plane_connected_state").await, 1.0);
    assert_eq!(stranger.metric("envoy_control_plane_connected_state").await, 0.0);
}
