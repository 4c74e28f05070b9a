use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use super::*;
use crate::model::{Endpoint, EndpointSet, Health, Locality, Service, ServiceId, ServiceKind};

/// `web` with an address, `many` headless with so many pods that they do not fit into a datagram.
fn state() -> Arc<MeshState> {
    let service = |name: &str, kind| {
        let id = ServiceId::new("default", name);
        let (uid, ports, annotations) = (String::new(), vec![], BTreeMap::new());
        (id.clone(), Arc::new(Service { id, uid, kind, ports, publish_not_ready: false, annotations }))
    };
    let address: std::net::IpAddr = [10, 96, 0, 7].into();
    let endpoints = (1..=200)
        .map(|n| Endpoint {
            address: Ipv4Addr::new(10, 1, 0, n).into(),
            sidecar: None,
            ports: Arc::new([]),
            health: Health::Ready,
            locality: Locality::default(),
            hostname: None,
            pod: None,
        })
        .collect();
    let services = [
        service("web", ServiceKind::Virtual(vec![address])),
        service("many", ServiceKind::Headless),
        service("outside", ServiceKind::External("web.default".into())),
    ];
    Arc::new(MeshState {
        version: 1,
        services: Arc::new(services.into()),
        endpoints: Arc::new(
            [(ServiceId::new("default", "many"), Arc::new(EndpointSet { endpoints }))].into(),
        ),
        ..MeshState::default()
    })
}

struct Running {
    address: SocketAddr,
    state: watch::Sender<Arc<MeshState>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), DnsError>>,
}

async fn start(state: Arc<MeshState>, forward: Forward) -> Running {
    let (sender, receiver) = watch::channel(state);
    let config = DnsConfig { forward, ..DnsConfig::default() };
    let server = DnsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), receiver, config).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let task = tokio::spawn(server.run(shutdown.clone()));
    Running { address, state: sender, shutdown, task }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(server: SocketAddr, message: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    Message::from_vec(&buffer[..received.expect("an answer").unwrap()]).unwrap()
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    udp(server, &query(name, kind).to_vec().unwrap()).await
}

async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn answers_over_udp_and_tcp_with_authority() {
    let server = start(state(), Forward::Nowhere).await;
    let from_udp = ask(server.address, "web.default.svc.cluster.local.", RecordType::A).await;
    let from_tcp = tcp(server.address, &query("web.", RecordType::A)).await;
    for message in [from_udp, from_tcp] {
        assert_eq!((message.metadata.id, message.metadata.response_code), (77, ResponseCode::NoError));
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert_eq!(message.answers[0].data, RData::A(Ipv4Addr::new(10, 96, 0, 7).into()));
    }
    let absent = ask(server.address, "nope.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities[0].record_type(), RecordType::SOA);
    let no_data = ask(server.address, "web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((no_data.metadata.response_code, no_data.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(no_data.authorities[0].record_type(), RecordType::SOA);
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let server = start(state(), Forward::Nowhere).await;
    let small = ask(server.address, "many.", RecordType::A).await;
    assert!(small.metadata.truncation && small.to_vec().unwrap().len() <= 512);
    let mut with_edns = query("many.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.edns = Some(edns);
    let larger = udp(server.address, &with_edns.to_vec().unwrap()).await;
    assert!(larger.metadata.truncation && larger.answers.len() > small.answers.len());
    with_edns.queries[0].set_name(Name::from_ascii("web.").unwrap());
    assert!(udp(server.address, &with_edns.to_vec().unwrap()).await.edns.is_some());
    let whole = tcp(server.address, &query("many.", RecordType::A)).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[tokio::test]
async fn addresses_take_turns_at_being_first() {
    let server = start(state(), Forward::Nowhere).await;
    let first = tcp(server.address, &query("many.", RecordType::A)).await.answers[0].clone();
    let second = tcp(server.address, &query("many.", RecordType::A)).await.answers[0].clone();
    assert_ne!(first, second);
}

#[tokio::test]
async fn before_the_state_is_known_the_mesh_fails_instead_of_denying() {
    let server = start(Arc::default(), Forward::Nowhere).await;
    let early = ask(server.address, "web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
    server.state.send_replace(state());
    let later = ask(server.address, "web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(later.metadata.response_code, ResponseCode::NoError);
}

#[tokio::test]
async fn other_names_are_forwarded_and_the_cluster_domain_never_is() {
    // The upstream knows `web` in its own cluster domain: what comes back from it shows that it was asked.
    let (_keep, receiver) = watch::channel(state());
    let config = DnsConfig {
        cluster_domain: "upstream.test".into(),
        forward: Forward::Nowhere,
        ..DnsConfig::default()
    };
    let upstream = DnsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), receiver, config).await.unwrap();
    let address = upstream.address();
    tokio::spawn(upstream.run(CancellationToken::new()));
    let empty = Arc::new(MeshState { version: 1, ..MeshState::default() });
    let server = start(empty, Forward::Servers(vec![address])).await;

    let found = ask(server.address, "web.default.svc.upstream.test.", RecordType::A).await;
    assert_eq!(found.answers[0].data, RData::A(Ipv4Addr::new(10, 96, 0, 7).into()));
    assert!(!found.metadata.authoritative);
    let absent = ask(server.address, "nope.default.svc.upstream.test.", RecordType::A).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities[0].name.to_string(), "upstream.test.");
    let alias = ask(server.address, "outside.default.svc.upstream.test.", RecordType::A).await;
    assert_eq!(alias.answers.len(), 2, "{alias:?}");
    // The upstream would have answered this one.
    let ours = ask(server.address, "web.default.svc.", RecordType::A).await;
    assert_eq!(ours.metadata.response_code, ResponseCode::NXDomain);
    let ours = ask(server.address, "web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(ours.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_server_never_asks_itself() {
    let own: SocketAddr = (Ipv4Addr::LOCALHOST, 5353).into();
    let forwarder = Forwarder::new(&Forward::Servers(vec![own]), own).unwrap();
    let answer = forwarder.lookup(&Name::from_ascii("example.com.").unwrap(), RecordType::A).await;
    assert!(matches!(answer, forward::Forwarded::Refused));
}

#[tokio::test]
async fn odd_queries_get_an_error_and_the_server_lives_on() {
    let server = start(state(), Forward::Nowhere).await;
    let mut update = query("web.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    let mut two = query("web.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("api.").unwrap(), RecordType::A));
    let mut version = query("web.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    version.edns = Some(edns);
    for (message, code) in [
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (version, ResponseCode::BADVERS),
        (query("web.", RecordType::AXFR), ResponseCode::Refused),
        (query("example.com.", RecordType::A), ResponseCode::Refused),
    ] {
        let answer = udp(server.address, &message.to_vec().unwrap()).await;
        // By number, as 16 has two names.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(code));
    }
    // A question whose name points at itself; one that says it has a question and ends; noise.
    let loops = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1];
    assert_eq!(udp(server.address, &loops).await.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(udp(server.address, &loops[..12]).await.metadata.response_code, ResponseCode::FormErr);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for length in 0..12 {
        socket.send_to(&loops[..length], server.address).await.unwrap();
    }
    assert_eq!(
        ask(server.address, "web.", RecordType::A).await.metadata.response_code,
        ResponseCode::NoError
    );
}
