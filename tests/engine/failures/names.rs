//! The name system says something else.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{net::UdpSocket, task::JoinSet};
use weft_tests::{bootstrap::socket, wait};

use super::{RETRY_ON, backend::Backend, load::Load, metric, proxy, settles};

/// A name server that knows what it is told: the addresses of names, by A records without a life.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Says {
    records: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Says "server failure" to everything.
    broken: bool,
    questions: usize,
}

const NAME: &str = "backend.test";
const A: u16 = 1;

/// A user expects: what the record says is in force within the refresh interval, no request fails for the change, and a
/// name server that fails changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_changes_moves_all_requests_and_fails_none() -> anyhow::Result<()> {
    let names = NameServer::start().await?;
    let (old, new) = two_with_one_port().await?;
    names.set(&[[127, 0, 0, 2].into()]);
    let cluster = json!({
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_ONLY",
        "dns_refresh_rate": "0.05s",
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [socket(names.address)],
        }},
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": NAME, "port_value": old.address.port()},
        }}}]}]},
    });
    let proxy = proxy(&[], json!({"retry_on": RETRY_ON, "num_retries": 1}), cluster).await?;
    proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 1.0).await?;

    // Both, then the new one alone.
    let mut load = Load::start(&proxy, "front", 1_500, 800)?;
    load.sent(200).await?;
    ensure!(new.asked() == 0 && old.asked() > 0, "the record names the old one alone");
    names.set(&[[127, 0, 0, 2].into(), [127, 0, 0, 3].into()]);
    proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 2.0).await?;
    names.set(&[[127, 0, 0, 3].into()]);
    proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 1.0).await?;
    // Some were on their way when it changed.
    let moved = load.settled().await?;
    let asked = old.asked();
    // The name server breaks, and is asked again and again.
    names.lock().broken = true;
    let questions = names.lock().questions;
    wait::wait_for("it is asked again", wait::LONG, || async {
        let more = names.lock().questions - questions;
        Ok(if more > 3 { Ok(()) } else { Err(format!("{more} times")) })
    })
    .await?;
    let answers = load.end().await?;

    ensure!(answers.failed() == 0, "{} of 1500 failed", answers.failed());
    ensure!(moved < 1_400, "the machine was too slow for this test to mean much: {moved}");
    let late = old.asked() - asked;
    ensure!(late == 0, "{late} requests of {} went to the old one after the change", 1_500 - moved);
    ensure!(answers.from("new") >= 1_500 - moved, "{} were answered by the new one", answers.from("new"));
    ensure!(metric(&proxy, "membership_total").await? == 1, "the last good answer stays");
    settles(&proxy, 1_500).await?;
    proxy.finish().await
}

/// Records have no ports, so both must have the same one.
async fn two_with_one_port() -> anyhow::Result<(Backend, Backend)> {
    for _ in 0..20 {
        let old = Backend::start_at("old", ([127, 0, 0, 2], 0).into()).await?;
        if let Ok(new) = Backend::start_at("new", ([127, 0, 0, 3], old.address.port()).into()).await {
            return Ok((old, new));
        }
    }
    anyhow::bail!("no port is free on both addresses")
}

// === impl NameServer ===

impl NameServer {
    async fn start() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.context("no port for a name server")?;
        let (address, says) = (socket.local_addr()?, Arc::<Mutex<Says>>::default());
        let mut serving = JoinSet::new();
        let known = Arc::clone(&says);
        serving.spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let answer =
                    answer(&query[..length], &mut known.lock().unwrap_or_else(PoisonError::into_inner));
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        Ok(Self { address, says, _serving: serving })
    }

    /// From now on these are the addresses.
    fn set(&self, addresses: &[Ipv4Addr]) {
        self.lock().records.insert(NAME.to_owned(), addresses.to_vec());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a query with one question (RFC 1035 4.1).
fn answer(query: &[u8], says: &mut Says) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEAD;
    while let length @ 1.. = usize::from(*query.get(at)?) {
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let question = query.get(HEAD..at + 5)?;
    let type_ = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    says.questions += 1;
    let known = says.records.get(&labels.join(".")).filter(|_| type_ == A && !says.broken);
    let addresses = known.map_or(&[][..], Vec::as_slice);
    let code = match known {
        _ if says.broken => 2,
        None if type_ == A => 3,
        _ => 0,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).ok()?, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    for address in addresses {
        // The name of the question, class IN, no life, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
