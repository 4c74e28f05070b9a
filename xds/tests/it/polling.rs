//! The client that polls, against a server of a few lines that does what is written.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions,
    client::{ConfigSink, PollConfig, poll},
    pb::envoy::config::cluster::v3::Cluster,
};

use crate::{
    single::{Telling, wanting},
    support::{PATIENCE, node},
};

/// Answers each request in turn, the last one for ever, and tells of the requests; one that is empty is never answered.
async fn server(answers: Vec<String>) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            // All of it: the body is the last part and is an object.
            while !request.ends_with("}") {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap();
                assert!(read > 0, "half a request: {request}");
                request.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            let _ = requests.send(request);
            let answer = &answers[number.min(answers.len() - 1)];
            if answer.is_empty() {
                silent.push(stream);
            } else {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, asked)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Without a type URL, as sovereign has it.
fn clusters(version: &str, names: &[&str]) -> String {
    let cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let resources: Vec<_> =
        names.iter().map(|name| serde_json::json!({"@type": cluster, "name": name})).collect();
    answer("200 OK", &serde_json::json!({"version_info": version, "resources": resources}).to_string())
}

fn config(address: std::net::SocketAddr) -> PollConfig {
    PollConfig {
        server: address.to_string().parse().unwrap(),
        secure: None,
        host: "control".into(),
        node: node("one"),
        type_: ResourceType::Cluster,
        every: Duration::from_millis(20),
        timeout: PATIENCE,
        resume: false,
        wanted_changed: Arc::new(Notify::new()),
    }
}

#[tokio::test]
async fn what_is_polled_changes_with_its_version_and_survives_every_failure() {
    let answers = vec![
        clusters("1", &["a", "b"]),
        answer("304 Not Modified", ""),
        answer("500 Oh No", "nothing"),
        answer("200 OK", "{\"resources\": 7}"),
        clusters("2", &["a", "c"]),
        answer("304 Not Modified", ""),
    ];
    let (address, mut asked) = server(answers).await;
    let (updates, mut told) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let config = config(address);
    let sink = Telling { wanted: wanting(ResourceType::Cluster), updates };
    let client = tokio::spawn(poll(config, sink, stop.clone()));
    let mut update = async || tokio::time::timeout(PATIENCE, told.recv()).await.expect("told").expect("one");
    let names = |update: &ResourceUpdate| {
        update.upserts.iter().map(|resource| resource.name.clone()).collect::<Vec<_>>()
    };
    let first = update().await;
    assert_eq!((first.version.as_str(), names(&first)), ("1", vec!["a".to_owned(), "b".to_owned()]));
    let second = update().await;
    assert_eq!((names(&second), second.removed), (vec!["c".to_owned()], vec!["b".to_owned()]));

    let mut request =
        async || tokio::time::timeout(PATIENCE, asked.recv()).await.expect("asked").expect("one");
    let one = request().await;
    assert!(one.starts_with("POST /v3/discovery:clusters HTTP/1.1\r\nhost: control\r\n"), "{one}");
    assert!(one.contains("\"id\":\"one\"") && !one.contains("version_info"), "{one}");
    // The version in force goes with every further one, and does not change by what failed.
    for _ in 1..5 {
        let next = request().await;
        assert!(next.contains("\"version_info\":\"1\"") && next.contains("\"id\":\"one\""), "{next}");
    }
    let last = request().await;
    assert!(last.contains("\"version_info\":\"2\""), "{last}");
    stop.cancel();
    client.await.expect("the client ends");
}

#[tokio::test]
async fn who_is_not_answered_asks_again() {
    // However long the answers take after that, the last one is for ever.
    let (address, mut asked) = server(vec![String::new(), clusters("1", &["a"])]).await;
    let (updates, mut told) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let config = PollConfig { timeout: Duration::from_millis(500), ..config(address) };
    let sink = Telling { wanted: wanting(ResourceType::Cluster), updates };
    let client = tokio::spawn(poll(config, sink, stop.clone()));
    let update = tokio::time::timeout(PATIENCE, told.recv()).await.expect("told").expect("one");
    assert_eq!((update.version.as_str(), update.upserts.len()), ("1", 1));
    for _ in 0..2 {
        let request = asked.try_recv().expect("asked before it was told");
        assert!(!request.contains("version_info"), "{request}");
    }
    stop.cancel();
    client.await.expect("the client ends");
}

/// Tells of what it is given, and has kept clusters of version 7.
struct Keeping(Telling);

impl ConfigSink for Keeping {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        self.0.apply(update)
    }

    fn wanted(&self) -> Subscriptions {
        self.0.wanted()
    }

    fn resume(&mut self) -> Vec<ResourceUpdate> {
        let body = weft_xds::any::pack(&Cluster { name: "old".into(), ..Cluster::default() });
        let resource = Resource {
            name: "old".into(),
            aliases: Vec::new(),
            version: String::new(),
            body,
            caused_at: None,
        };
        let (type_, version) = (ResourceType::Cluster, "7".to_owned());
        vec![ResourceUpdate { type_, version, upserts: vec![resource], removed: Vec::new() }]
    }
}

#[tokio::test]
async fn who_polls_in_vain_at_first_goes_on_from_what_an_earlier_run_kept() {
    let answers = vec![
        answer("503 Away", ""),
        answer("500 Oh No", ""),
        clusters("8", &["a"]),
        answer("304 Not Modified", ""),
    ];
    let (address, mut asked) = server(answers).await;
    let (updates, mut told) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let config = PollConfig { resume: true, ..config(address) };
    let sink = Keeping(Telling { wanted: wanting(ResourceType::Cluster), updates });
    let client = tokio::spawn(poll(config, sink, stop.clone()));
    let update = tokio::time::timeout(PATIENCE, told.recv()).await.expect("told").expect("one");
    assert_eq!((update.version.as_str(), update.removed), ("8", vec!["old".to_owned()]));
    let mut versions = Vec::new();
    for _ in 0..4 {
        let request = tokio::time::timeout(PATIENCE, asked.recv()).await.expect("asked").expect("one");
        versions.push(["7", "8"].map(|version| request.contains(&format!("\"version_info\":\"{version}\""))));
    }
    assert_eq!(versions, [[false, false], [true, false], [true, false], [false, true]]);
    stop.cancel();
    client.await.expect("the client ends");
}
