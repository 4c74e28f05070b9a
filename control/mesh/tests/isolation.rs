//! One bad wish among a thousand: refused alone, named where its owner looks, and everything else in effect.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{FakeApi, eventually, get, greeter, service};
use tokio_util::sync::CancellationToken;
use weft_api::mesh::outbound_port;
use weft_mesh::{Config, Mesh, policy, start};
use weft_tests::proxy::Proxy;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const PROXIES: &str = "/apis/mesh.weft.dev/v1alpha1/proxies";
const PROXY: &str = "sidecar~default~client";
const NUMBER: u16 = 1000;
/// Its routes are well-formed, and no proxy can follow them.
const BAD: u16 = 500;
/// It has an annotation that control itself cannot follow.
const ODD: u16 = 501;

fn name(index: u16) -> String {
    format!("svc-{index}")
}

fn virtual_address(index: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + u32::from(index))
}

fn annotated(index: u16, annotations: Value) -> Value {
    let ports = json!([{ "name": "http", "port": 80 }]);
    let mut service = service(&name(index), &virtual_address(index).to_string(), ports);
    service["metadata"]["annotations"] = annotations;
    service["metadata"]["generation"] = 3.into();
    service
}

/// As the node agent writes it for a sidecar that is called at its own address.
fn bootstrap(ads: SocketAddr, listen: Ipv4Addr) -> Value {
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "node": { "id": PROXY, "cluster": "weft", "metadata": {
            "weft.traffic": "addressed", "weft.sidecar_address": listen.to_string() } },
        "dynamic_resources": {
            "lds_config": source, "cds_config": source,
            "ads_config": { "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }] },
        },
        "static_resources": { "clusters": [{
            "name": "control", "type": "STATIC", "connect_timeout": "5s",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            }},
            "load_assignment": { "cluster_name": "control", "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                "address": { "socket_address": { "address": ads.ip().to_string(), "port_value": ads.port() } },
            }}]}]},
        }]},
    })
}

async fn ask(mesh: &Mesh, path: &str, accept: &'static str) -> Value {
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
    let response = mesh.proxies_api().service.answer(&Method::GET, path, None, &headers);
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn condition(api: &FakeApi, index: u16) -> Option<Value> {
    let service = api.object(SERVICES, &name(index))?;
    let conditions = service["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "weft.dev/Programmed").cloned()
}

async fn condition_becomes(api: &FakeApi, index: u16, status: &str) -> Value {
    eventually(&format!("the condition of {} becomes {status}", name(index)), || async {
        condition(api, index).filter(|condition| condition["status"] == status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_invalid_route_among_a_thousand_services_is_refused_alone_and_named_everywhere() {
    let (api, shutdown, backend) = (FakeApi::default(), CancellationToken::new(), greeter().await);
    for index in 0..NUMBER {
        let annotations = match index {
            BAD => {
                json!({ policy::ROUTES: format!("[{{match: {{safe_regex: {{regex: '('}}}}, route: {{cluster: '{}.default:80'}}}}]", name(BAD)) })
            }
            ODD => json!({ policy::RETRIES: "many" }),
            _ => json!({}),
        };
        api.put(SERVICES, annotated(index, annotations));
        api.put(SLICES, support::slice(&name(index), &format!("pod-{index}"), backend, true));
    }
    let mesh = start(api.client(), Config::default(), shutdown.clone()).await.unwrap();
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let listen = Ipv4Addr::new(127, 78, high, low.max(1));
    let begun = Instant::now();
    let proxy = Proxy::start(bootstrap(mesh.ads_addresses()[0], listen)).await.unwrap();
    let at = |index| SocketAddr::new(listen.into(), outbound_port(virtual_address(index), 0));

    // Everything else is in effect.
    for index in (0..NUMBER).filter(|index| *index != BAD) {
        eventually(&format!("{} answers", name(index)), || async {
            get(at(index)).await.filter(|response| response.starts_with("HTTP/1.1 200"))
        })
        .await;
    }
    println!("all but one of {NUMBER} services serve after {:?}", begun.elapsed());

    // Visible among the proxies: that one resource, and nothing else.
    let object = eventually("all but one resource is acknowledged", || async {
        let object = ask(&mesh, &format!("{PROXIES}/{PROXY}"), "application/json").await;
        let resources = object["status"]["resources"].as_array()?;
        let differ = resources.iter().filter(|resource| resource["state"] != "Synced").count();
        (resources.len() == 4 * usize::from(NUMBER) && differ == 1).then_some(object)
    })
    .await;
    let resources = object["status"]["resources"].as_array().unwrap();
    let refused = resources.iter().find(|resource| resource["state"] == "Refused").expect("one is refused");
    assert_eq!(
        (&refused["type"], &refused["name"]),
        (&"RDS".into(), &format!("{}.default:80", name(BAD)).into())
    );
    let reason = refused["message"].as_str().unwrap();
    assert!(reason.contains("virtual_hosts[0].routes[0].match.safe_regex"), "{reason}");
    let table = ask(&mesh, PROXIES, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    let cell = |column: &str| {
        let index = columns.iter().position(|name| *name == column).expect("it has the column");
        table["rows"][0]["cells"][index].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!([cell("Name"), cell("Pod")], [PROXY, "default/client"]);
    assert_eq!(
        [cell("CDS"), cell("EDS"), cell("LDS"), cell("RDS")],
        ["SYNCED", "SYNCED", "SYNCED", "REFUSED"]
    );
    assert!(cell("Last Refusal").contains(&name(BAD)), "{table}");
    assert!(cell("Client").starts_with("weft-proxy/"), "{table}");

    // Named in the status of its Service and in an Event: what only the proxy can judge, and what control sees itself.
    let bad = condition_becomes(&api, BAD, "False").await;
    assert_eq!((&bad["reason"], &bad["observedGeneration"]), (&"RefusedByProxy".into(), &3.into()));
    let message = bad["message"].as_str().unwrap();
    assert!(message.contains(PROXY) && message.contains("virtual_hosts[0].routes[0].match"), "{message}");
    println!("condition: {message}");
    let odd = condition_becomes(&api, ODD, "False").await;
    assert_eq!(odd["reason"], "InvalidAnnotation");
    assert!(odd["message"].as_str().unwrap().contains(policy::RETRIES), "{odd}");
    let conditions = (0..NUMBER).filter(|index| condition(&api, *index).is_some()).count();
    assert_eq!(conditions, 2, "services without a problem are left alone");
    eventually("an event about each", || async {
        let about = |name: String, reason: &str| {
            let created = api.created();
            created.iter().any(|(_, event)| event["regarding"]["name"] == name && event["reason"] == reason)
        };
        (about(name(BAD), "RefusedByProxy") && about(name(ODD), "InvalidMeshAnnotation")).then_some(())
    })
    .await;

    // Mended, it is as the others.
    for index in [BAD, ODD] {
        let mut mended = api.object(SERVICES, &name(index)).unwrap();
        mended["metadata"]["annotations"] = json!({});
        mended["metadata"]["generation"] = 4.into();
        api.put(SERVICES, mended);
    }
    for index in [BAD, ODD] {
        let condition = condition_becomes(&api, index, "True").await;
        assert_eq!(condition["observedGeneration"], 4);
        eventually("it answers", || async {
            get(at(index)).await.filter(|response| response.starts_with("HTTP/1.1 200"))
        })
        .await;
    }
    eventually("the proxy is in step", || async {
        let object = ask(&mesh, &format!("{PROXIES}/{PROXY}"), "application/json").await;
        (object["status"]["state"] == "Synced").then_some(())
    })
    .await;
    proxy.finish().await.unwrap();
    shutdown.cancel();
    mesh.stopped().await;
}
