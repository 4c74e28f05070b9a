//! What a control plane gave is kept on disk, and served from when it is away.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_proxy::server::Options;
use weft_xds::{
    json::{Format, any_from_json, any_to_json, from_json, parse_value},
    pb::google::protobuf::Any,
    server::Snapshot,
};

use crate::support::{
    Process, Proxy, Upstream,
    control::{self, Control, eventually, free_port, named, snapshot},
    pki::{self, Authority},
    raw, statuses,
};

/// Whether a request is answered.
async fn works(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let mut answer = Vec::new();
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    // What is closed meanwhile is no answer.
    let _ = stream.read_to_end(&mut answer).await;
    asked.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let text = raw(admin, "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(-1.0)
}

fn options(directory: &Path) -> Options {
    Options { last_good: Some(directory.to_owned()), ..Options::default() }
}

/// Lets a proxy of this process keep what `control` gives, and ends it.
async fn keep(control: &Control, directory: &Path, listener: SocketAddr) {
    let proxy = Proxy::with_options(&control.bootstrap(), options(directory)).await;
    eventually("traffic", async || works(listener).await).await;
    proxy.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_control_plane_is_away_starts_with_what_it_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("kept");
    let arguments = ["--last-good-config-path", directory.to_str().expect("text")];
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    control.cache.set("p", snapshot(listener.port(), "one", &[one.address]));
    let process = Process::start(&control.bootstrap(), &arguments).await;
    eventually("traffic", async || works(listener).await).await;
    assert_eq!(metric(process.admin, "weft_last_good_config_in_force").await, 0.0);
    // Clusters, endpoints, listeners and routes, at whatever moments they came.
    eventually("everything is on disk", async || {
        std::fs::read_dir(&directory).is_ok_and(|files| {
            files.flatten().filter(|file| file.path().extension() == Some("last-good".as_ref())).count() == 4
        })
    })
    .await;
    // Killed, so it had no time to write anything at its end.
    drop(process);
    let (address, bootstrap) = (control.address, control.bootstrap());
    drop(control);

    let process = Process::start(&bootstrap, &arguments).await;
    eventually("traffic without control", async || works(listener).await).await;
    assert!(one.connections() > 0);
    assert_eq!(metric(process.admin, "weft_last_good_config_in_force").await, 1.0);
    assert_eq!(metric(process.admin, "envoy_control_plane_connected_state").await, 0.0);
    let dump = raw(process.admin, "GET /config_dump HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(dump.contains("\"in_force\": true"), "{dump}");

    // Back again, with other endpoints and another listener in place of the one of before.
    let control = Control::start_at(address).await;
    let moved = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut changed = snapshot(moved.port(), "two", &[other.address]);
    changed.listeners = named("moved", control::listener("moved", moved.port(), "two"));
    control.cache.set("p", changed);
    eventually("the new configuration", async || works(moved).await && other.connections() > 0).await;
    eventually("the old listener is gone", async || !works(listener).await).await;
    assert_eq!(metric(process.admin, "weft_last_good_config_in_force").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_is_there_is_waited_for_instead_of_serving_the_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    control.cache.set("p", snapshot(listener.port(), "one", &[one.address]));
    keep(&control, folder.path(), listener).await;
    let before = one.connections();
    control.cache.set("p", snapshot(listener.port(), "one", &[other.address]));
    let proxy = Proxy::with_options(&control.bootstrap(), options(folder.path())).await;
    eventually("traffic", async || works(listener).await).await;
    assert_eq!((one.connections(), other.connections()), (before, 1));
    assert_eq!(proxy.metric("weft_last_good_config_in_force").await, 0.0);
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_refused_and_counted_and_the_others_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::echo().await;
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    control.cache.set("p", snapshot(listener.port(), "one", &[upstream.address]));
    keep(&control, folder.path(), listener).await;
    let bootstrap = control.bootstrap();
    drop(control);
    let file = folder.path().join("endpoints.last-good");
    let mut content = std::fs::read(&file).expect("it was kept");
    *content.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, content).expect("written");

    let proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("the listener is there", async || TcpStream::connect(listener).await.is_ok()).await;
    let answer = raw(listener, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["503"], "no endpoints are known");
    assert_eq!(proxy.metric("weft_last_good_config_files_refused").await, 1.0);
    assert_eq!(proxy.metric("weft_last_good_config_in_force").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_proxy_kept_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::echo().await;
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    control.cache.set("p", snapshot(listener.port(), "one", &[upstream.address]));
    keep(&control, folder.path(), listener).await;
    let bootstrap = control.bootstrap().replace("id: p,", "id: q,");
    drop(control);
    let proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("all files are refused", async || {
        proxy.metric("weft_last_good_config_files_refused").await == 4.0
    })
    .await;
    assert!(TcpStream::connect(listener).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_came_over_sds_serve_and_are_kept_for_the_owner_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let leaf = authority.leaf(&["a.test"]);
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut given = snapshot(port, "one", &[upstream.address]);
    let mut listener: weft_xds::pb::envoy::config::listener::v3::Listener =
        weft_xds::any::unpack(&given.listeners["web"]).expect("a listener");
    let context = parse_value(
        "{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         common_tls_context: { tls_certificate_sds_secret_configs: [{ name: ours, sds_config: { ads: {} } }] } }",
        Format::Yaml,
    );
    let socket = json!({"name": "tls", "typed_config": context.expect("YAML")});
    listener.filter_chains[0].transport_socket = Some(from_json(&socket).expect("a socket"));
    given.listeners = named("web", weft_xds::any::pack(&listener));
    let secret = format!("{{ name: ours, tls_certificate: {} }}", leaf.yaml());
    given.secrets = named(
        "ours",
        control::any(
            "envoy.extensions.transport_sockets.tls.v3.Secret",
            parse_value(&secret, Format::Yaml).expect("YAML"),
        ),
    );
    let control = Control::start().await;
    control.cache.set("p", given);
    let client = Arc::new(pki::client(&authority, None));
    let serves = async || {
        let connected = match TcpStream::connect(address).await {
            Ok(_) => pki::connect(&client, address, "a.test").await.ok(),
            Err(_) => None,
        };
        let Some(mut stream) = connected else { return false };
        let mut answer = vec![0; 4096];
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let count = stream.read(&mut answer).await.unwrap_or(0);
        asked.is_ok() && answer[..count].starts_with(b"HTTP/1.1 200")
    };
    let proxy = Proxy::with_options(&control.bootstrap(), options(folder.path())).await;
    eventually("traffic", serves).await;
    proxy.server.stop().await;
    let bootstrap = control.bootstrap();
    drop(control);
    let kept = std::fs::metadata(folder.path().join("secret.last-good")).expect("it was kept");
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    let proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("traffic without control", serves).await;
    assert_eq!(proxy.metric("weft_last_good_config_in_force").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_change_all_the_time_are_written_now_and_then_and_the_last_of_them_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    let began = Instant::now();
    control.cache.set("p", snapshot(listener.port(), "one", &[one.address]));
    let proxy = Proxy::with_options(&control.bootstrap(), options(folder.path())).await;
    eventually("traffic", async || works(listener).await).await;
    for round in 0..30 {
        let seen = proxy.metric("envoy_xds_update_success").await;
        let upstream = if round % 2 == 0 { &other } else { &one };
        control.cache.set("p", snapshot(listener.port(), "one", &[upstream.address]));
        eventually("an update", async || proxy.metric("envoy_xds_update_success").await > seen).await;
    }
    let turns = began.elapsed().as_secs() / 2 + 2;
    // The first turns may write each type, those after them one.
    let writes = proxy.metric("weft_last_good_config_writes").await;
    assert!(writes <= turns as f64 + 6.0, "{writes} in {turns} turns");
    control.cache.set("p", snapshot(listener.port(), "one", &[other.address]));
    eventually("the last update", async || {
        let before = other.connections();
        works(listener).await && other.connections() > before
    })
    .await;
    proxy.server.stop().await;
    let bootstrap = control.bootstrap();
    drop(control);
    let before = (one.connections(), other.connections());
    let _proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("traffic without control", async || works(listener).await).await;
    assert_eq!((one.connections(), other.connections()), (before.0, before.1 + 1));
}

/// The same with every type from a stream of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_servers_of_single_types_gave_is_kept_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let listener = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let control = Control::start().await;
    let source = json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "control.test"}}],
    }});
    let from_it = |mut given: Snapshot| {
        let everywhere = |any: &Any| {
            let text = any_to_json(any).expect("JSON").to_string();
            let text = text.replace(r#"{"ads":{}}"#, &source.to_string());
            any_from_json(&parse_value(&text, Format::Json).expect("JSON")).expect("a resource")
        };
        given.listeners = given.listeners.iter().map(|(name, any)| (name.clone(), everywhere(any))).collect();
        given.clusters = given.clusters.iter().map(|(name, any)| (name.clone(), everywhere(any))).collect();
        given
    };
    control.cache.set("p", from_it(snapshot(listener.port(), "one", &[one.address])));
    let cluster = json!({
        "name": "control.test", "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": "control.test", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": "127.0.0.1", "port_value": control.address.port()},
        }}}]}]},
    });
    let bootstrap = format!(
        "node: {{ id: p, cluster: test }}\nstatic_resources: {{ clusters: [{cluster}] }}\n\
         dynamic_resources: {{ lds_config: {source}, cds_config: {source} }}\n"
    );
    let proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("traffic", async || works(listener).await).await;
    proxy.server.stop().await;
    let address = control.address;
    drop(control);
    let mut kept: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .collect();
    kept.sort();
    let types = ["cluster", "endpoints", "listener", "route"];
    assert_eq!(kept, types.map(|type_| format!("{type_}.from-control%2Etest.last-good")));

    let proxy = Proxy::with_options(&bootstrap, options(folder.path())).await;
    eventually("traffic without control", async || works(listener).await).await;
    assert_eq!(proxy.metric("weft_last_good_config_in_force").await, 1.0);
    assert_eq!(other.connections(), 0);
    // Back again, with other endpoints.
    let control = Control::start_at(address).await;
    control.cache.set("p", from_it(snapshot(listener.port(), "one", &[other.address])));
    eventually("the new configuration", async || works(listener).await && other.connections() > 0).await;
    eventually("all of it", async || proxy.metric("weft_last_good_config_in_force").await == 0.0).await;
}
