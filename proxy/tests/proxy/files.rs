//! Configuration from files, moved into place.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{
    Proxy, Upstream,
    control::{eventually, free_port},
    raw, statuses,
};

/// A folder with a file for each kind of resource.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Moves a file into place.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path("next"), content).expect("written");
        fs::rename(self.path("next"), self.path(name)).expect("moved");
    }

    fn source(&self, name: &str) -> Value {
        json!({"path_config_source": {"path": self.path(name)}})
    }

    fn listeners(&self, port: u16) -> String {
        response(&[json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": "web",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "web",
                "rds": {"config_source": self.source("rds.yaml"), "route_config_name": "r"},
                "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]}],
        })])
    }

    fn clusters(&self) -> String {
        response(&[json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "c", "type": "EDS", "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": self.source("eds.json")},
        })])
    }

    fn bootstrap(&self) -> String {
        let sources = json!({"lds_config": self.source("lds.yaml"), "cds_config": self.source("cds.yaml")});
        format!("node: {{ id: p, cluster: test }}\ndynamic_resources: {sources}\n")
    }
}

fn response(resources: &[Value]) -> String {
    json!({"version_info": "1", "resources": resources}).to_string()
}

fn routes(prefix: &str) -> String {
    response(&[json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "r",
        "virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": prefix}, "route": {"cluster": "c"}}]}],
    })])
}

fn endpoints(upstream: &Upstream) -> String {
    let at = upstream.address;
    response(&[json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "c",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
            "address": at.ip().to_string(), "port_value": at.port()}}}}]}],
    })])
}

async fn status(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n");
    statuses(&raw(address, &request).await).concat()
}

async fn rejected(proxy: &Proxy) -> f64 {
    proxy.metric("envoy_xds_update_rejected").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_from_files_and_changes_when_they_are_moved_into_place() {
    let folder = Folder::new();
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let port = free_port();
    folder.put("lds.yaml", folder.listeners(port));
    folder.put("cds.yaml", folder.clusters());
    folder.put("rds.yaml", routes("/"));
    folder.put("eds.json", endpoints(&one));
    // No wait: what is there when the proxy starts serves when it has started.
    let proxy = Proxy::start(&folder.bootstrap()).await;
    let address = proxy.at("web");
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
    assert_eq!(status(address, "/").await, "200");
    assert_eq!((one.connections(), other.connections()), (1, 0));

    folder.put("eds.json", endpoints(&other));
    eventually("other endpoints", async || status(address, "/").await == "200" && other.connections() > 0)
        .await;
    folder.put("rds.yaml", routes("/only"));
    eventually("other routes", async || status(address, "/").await == "404").await;
    assert_eq!(status(address, "/only").await, "200");

    // A listener that moves, and one cluster that nobody can use beside the good one.
    let moved = free_port();
    folder.put("lds.yaml", folder.listeners(moved));
    eventually("the listener moved", async || proxy.at("web").port() == moved).await;
    assert_eq!(rejected(&proxy).await, 0.0);
    let clusters = folder.clusters();
    let bad = r#"{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "bad", "lb_policy": "LOAD_BALANCING_POLICY_CONFIG"}, "#;
    folder.put("cds.yaml", clusters.replacen("\"resources\":[", &format!("\"resources\":[{bad}"), 1));
    eventually("a refusal", async || rejected(&proxy).await == 1.0).await;
    assert_eq!(proxy.metric("envoy_cluster_manager_cds_update_rejected").await, 1.0);
    assert_eq!(proxy.metric("envoy_listener_manager_lds_update_rejected").await, 0.0);
    assert_eq!(proxy.metric("envoy_listener_manager_lds_update_success").await, 2.0);
    assert_eq!(status(proxy.at("web"), "/only").await, "200");
    folder.put("cds.yaml", response(&[]));
    eventually("the cluster is gone", async || status(proxy.at("web"), "/only").await == "503").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_keeps_the_last_good_version_and_is_counted() {
    let folder = Folder::new();
    let upstream = Upstream::echo().await;
    folder.put("lds.yaml", folder.listeners(free_port()));
    folder.put("cds.yaml", folder.clusters());
    folder.put("rds.yaml", routes("/"));
    folder.put("eds.json", endpoints(&upstream));
    let proxy = Proxy::start(&folder.bootstrap()).await;
    let address = proxy.at("web");
    let all = ["lds.yaml", "cds.yaml", "rds.yaml", "eds.json"];
    let bad = ["{", "resources: 7", "resources: [{ name: c }]"];
    for (count, (file, content)) in all.iter().flat_map(|file| bad.map(|content| (file, content))).enumerate()
    {
        folder.put(file, content);
        let expected = count as f64 + 1.0;
        eventually("a refusal", async || rejected(&proxy).await >= expected).await;
        assert_eq!(status(address, "/").await, "200", "{file}: {content}");
    }
    // A file without the one that is asked for is as bad.
    folder.put("rds.yaml", routes("/").replace("\"name\":\"r\"", "\"name\":\"s\""));
    eventually("a refusal", async || rejected(&proxy).await >= 13.0).await;
    // What is written in place is not looked at, however bad; the next move is.
    fs::write(folder.path("rds.yaml"), "half a fi").expect("written");
    folder.put("eds.json", endpoints(&upstream));
    folder.put("rds.yaml", routes("/only"));
    eventually("the next good file", async || status(address, "/").await == "404").await;
    assert_eq!(rejected(&proxy).await, 13.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_directory_has_a_file_read_anew_when_a_link_is_swapped() {
    // As Kubernetes mounts a ConfigMap: the file is a link through `..data`, which is swapped.
    let folder = Folder::new();
    let (one, other) = (Upstream::echo().await, Upstream::echo().await);
    let swap = |name: &str, content: String| {
        fs::create_dir(folder.path(name)).expect("a folder");
        fs::write(folder.path(name).join("eds.json"), content).expect("written");
        symlink(name, folder.path("..data_tmp")).expect("linked");
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).expect("swapped");
    };
    swap("first", endpoints(&one));
    symlink(Path::new("..data/eds.json"), folder.path("eds.json")).expect("linked");
    folder.put("rds.yaml", routes("/"));
    folder.put("lds.yaml", folder.listeners(free_port()));
    let watched = json!({"path": folder.0.path()});
    let clusters = folder.clusters().replacen(
        "\"path_config_source\":{",
        &format!("\"path_config_source\":{{\"watched_directory\":{watched},"),
        1,
    );
    folder.put("cds.yaml", clusters);
    let proxy = Proxy::start(&folder.bootstrap()).await;
    let address = proxy.at("web");
    assert_eq!(status(address, "/").await, "200");
    assert_eq!((one.connections(), other.connections()), (1, 0));
    swap("second", endpoints(&other));
    eventually("other endpoints", async || status(address, "/").await == "200" && other.connections() > 0)
        .await;
}

#[test]
fn a_file_that_is_not_there_is_refused_by_its_path() {
    let folder = Folder::new();
    let check = |text: &str| {
        let bootstrap = parse_bootstrap(text, Format::Yaml).expect("a bootstrap");
        validate(bootstrap).expect_err("refused").to_string()
    };
    let error = check(&folder.bootstrap());
    assert!(error.starts_with("dynamic_resources.lds_config.path_config_source.path: "), "{error}");
    assert!(error.contains("does not exist"), "{error}");
    let cluster = json!({"static_resources": {"clusters": [{
        "name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": folder.source("eds.json")}}]}});
    let error = check(&cluster.to_string());
    assert!(error.contains("clusters[0].eds_cluster_config.eds_config.path_config_source.path"), "{error}");
}
