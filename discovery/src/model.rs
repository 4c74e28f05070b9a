//! The mesh: services, endpoints and the pods behind them, as one immutable snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

/// The mesh at one moment.
///
/// Canonical are the three maps; each value sits behind its own [`Arc`], which stays the same one for as long as the
/// value does not change. Who compiles something from a state therefore sees what changed by comparing pointers.
#[derive(Debug, Clone, Default)]
pub struct MeshState {
    /// Counts the states that were published. 0 means that nothing is known yet: such a state must not be acted upon,
    /// or a restarted control plane would empty the proxies that still serve from their last good state.
    pub version: u64,
    /// Every service.
    pub services: Arc<BTreeMap<ServiceId, Arc<Service>>>,
    /// The endpoints of services that have any, also of names for which no service exists (yet).
    pub endpoints: Arc<BTreeMap<ServiceId, Arc<EndpointSet>>>,
    /// Every pod, reduced to what the mesh needs.
    pub pods: Arc<BTreeMap<PodId, Arc<Pod>>>,
    /// Those of `pods` that are [leaving](Pod::leaving).
    pub leaving: Arc<BTreeSet<PodId>>,
    /// When the last change of a service's endpoints was caused, such as by a pod that became ready or began to
    /// terminate; of services whose endpoints changed within the last minute.
    pub recent: Arc<BTreeMap<ServiceId, SystemTime>>,
}

/// Which service; ordered by namespace first, so that a namespace is one range of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The namespace.
    pub namespace: String,
    /// The name in that namespace.
    pub name: String,
}

/// A name that callers use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which one.
    pub id: ServiceId,
    /// Tells it from an earlier service of the same name.
    pub uid: String,
    /// How callers reach it.
    pub kind: ServiceKind,
    /// Its ports, in the order of the specification.
    pub ports: Vec<ServicePort>,
    /// Whether endpoints count before they are ready.
    pub publish_not_ready: bool,
    /// The annotations whose keys begin with `weft.dev/`: wishes about how the mesh treats the service.
    pub annotations: BTreeMap<String, String>,
}

/// How callers reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// Through stable virtual addresses. Empty until one is allocated.
    Virtual(Vec<IpAddr>),
    /// Straight at the addresses of its pods.
    Headless,
    /// Under another name, outside of the cluster.
    External(String),
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its place in the service's specification, from 0.
    pub index: usize,
    /// Its name; empty if it has none, which only the single port of a service may.
    pub name: String,
    /// The port that callers use.
    pub port: u16,
    /// What carries it.
    pub transport: Transport,
    /// What is spoken on it.
    pub app_protocol: AppProtocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP, all that the data plane carries.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What is spoken on a port. Ordered from the one that the mesh may interpret most to the one it must not touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppProtocol {
    /// HTTP/1, or HTTP/2 if the client begins with it.
    Http,
    /// HTTP/2 with prior knowledge; gRPC too.
    Http2,
    /// Not said: the first bytes of a connection tell.
    Detect,
    /// Opaque bytes.
    Tcp,
}

/// The endpoints of a service, sorted by address and then ports, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// All of them, whatever their health.
    pub endpoints: Vec<Endpoint>,
}

/// One address that serves a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the workload listens.
    pub address: IpAddr,
    /// Where the sidecar of the workload accepts its inbound traffic, if that is another address.
    pub sidecar: Option<IpAddr>,
    /// The ports, by the names that the service gives them.
    pub ports: Arc<[EndpointPort]>,
    /// Whether it may get requests.
    pub health: Health,
    /// Where it runs.
    pub locality: Locality,
    /// Its own name below that of a headless service.
    pub hostname: Option<String>,
    /// The pod behind it, if it is one.
    pub pod: Option<PodId>,
}

/// A port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// The name of the service port that it serves.
    pub name: String,
    /// The number at the endpoint.
    pub port: u16,
    /// What carries it.
    pub transport: Transport,
}

/// Whether an endpoint may get requests. Ordered from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Gets nothing.
    NotReady,
    /// Terminating but still serving: finishes what it has, gets nothing new.
    Draining,
    /// Gets requests.
    Ready,
}

/// Where an endpoint runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The failure domain, if nodes are labelled with one.
    pub zone: Option<String>,
    /// The machine.
    pub node: Option<String>,
}

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId {
    /// The namespace.
    pub namespace: String,
    /// The name in that namespace.
    pub name: String,
}

/// What the mesh needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Which one.
    pub id: PodId,
    /// Tells it from an earlier pod of the same name.
    pub uid: String,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// Where its sidecar accepts inbound traffic, if that is another address.
    pub sidecar: Option<IpAddr>,
    /// The machine it is bound to.
    pub node: Option<String>,
    /// The TCP ports that its containers declare, sorted, with their names (empty if none).
    pub ports: Vec<(u16, String)>,
    /// Whether it is ready, as it says itself.
    pub ready: bool,
    /// Whether it is marked for deletion.
    pub leaving: bool,
    /// Whether a sidecar is to be expected beside it: it has an address, its work is not over, and it did not ask to be
    /// without (`weft.dev/inject: disabled`).
    pub has_sidecar: bool,
}

// === impl MeshState ===

impl MeshState {
    /// Whether anything is known yet; see [`version`](Self::version).
    pub fn is_synced(&self) -> bool {
        self.version > 0
    }

    /// The endpoints of `service`; none if it has none.
    pub fn endpoints_of(&self, service: &ServiceId) -> &[Endpoint] {
        self.endpoints.get(service).map_or(&[], |set| &set.endpoints)
    }

    /// Whether any service lives in `namespace`.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceId::new(namespace, "");
        self.services.range(first..).next().is_some_and(|(id, _)| id.namespace == namespace)
    }
}

// === impl ServiceId ===

impl ServiceId {
    /// The service `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceId {
    /// As in DNS: the name first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

// === impl PodId ===

impl PodId {
    /// The pod `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Service ===

impl Service {
    /// The virtual addresses; none for headless and external services.
    pub fn virtual_addresses(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::Virtual(addresses) => addresses,
            ServiceKind::Headless | ServiceKind::External(_) => &[],
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The number behind the service port `name`, if this endpoint serves it.
    pub fn port(&self, name: &str, transport: Transport) -> Option<u16> {
        self.ports.iter().find(|port| port.name == name && port.transport == transport).map(|port| port.port)
    }

    /// The address to which other proxies connect: that of the sidecar where it has its own.
    pub fn proxy_address(&self) -> IpAddr {
        self.sidecar.unwrap_or(self.address)
    }
}

// === impl AppProtocol ===

/// Ports whose protocols let the server speak first, or that clients keep open in silence. Waiting there for the first
/// bytes of the client would stall every connection. (Linkerd keeps the same kind of list.)
const SERVER_SPEAKS_FIRST: [u16; 9] = [21, 25, 110, 143, 587, 3306, 5432, 6379, 11211];

impl AppProtocol {
    /// From a port's `appProtocol`, else the prefix of its name (`http-metrics`), else its number.
    pub fn of(app_protocol: Option<&str>, port_name: &str, port: u16) -> Self {
        if let Some(known) = app_protocol.and_then(Self::known) {
            return known;
        }
        let prefix = port_name.split('-').next().unwrap_or_default();
        // "grpc-web" is the one name whose prefix says something else.
        let prefix = if port_name.starts_with("grpc-web") { "grpc-web" } else { prefix };
        Self::known(prefix).unwrap_or(match SERVER_SPEAKS_FIRST.contains(&port) {
            true => Self::Tcp,
            false => Self::Detect,
        })
    }

    fn known(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" | "grpc-web" | "kubernetes.io/ws" => Some(Self::Http),
            "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" => Some(Self::Http2),
            // Encrypted by the application: opaque to everybody between.
            "https" | "tls" | "kubernetes.io/wss" => Some(Self::Tcp),
            "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "kafka" | "amqp" => {
                Some(Self::Tcp)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_protocol_field_wins_over_the_name_and_the_name_over_the_number() {
        assert_eq!(AppProtocol::of(Some("kubernetes.io/h2c"), "http", 80), AppProtocol::Http2);
        assert_eq!(AppProtocol::of(None, "http-metrics", 6379), AppProtocol::Http);
        assert_eq!(AppProtocol::of(None, "grpc-web", 80), AppProtocol::Http);
        assert_eq!(AppProtocol::of(None, "grpc", 80), AppProtocol::Http2);
        assert_eq!(AppProtocol::of(None, "", 6379), AppProtocol::Tcp);
        assert_eq!(AppProtocol::of(None, "web", 8080), AppProtocol::Detect);
        assert_eq!(AppProtocol::of(Some("example.com/own"), "", 8080), AppProtocol::Detect);
    }

    #[test]
    fn a_namespace_exists_while_a_service_lives_in_it() {
        let id = ServiceId::new("prod", "web");
        let service = Service {
            id: id.clone(),
            uid: String::new(),
            kind: ServiceKind::Headless,
            ports: vec![],
            publish_not_ready: false,
            annotations: BTreeMap::new(),
        };
        let state = MeshState {
            services: Arc::new(BTreeMap::from([(id, Arc::new(service))])),
            ..MeshState::default()
        };
        assert!(state.has_namespace("prod"));
        assert!(!state.has_namespace("pro"));
        assert!(!state.has_namespace("prod2"));
    }
}
