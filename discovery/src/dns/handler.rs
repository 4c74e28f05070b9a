//! From a DNS message to its response.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, LowerName, Name, Record, RecordType},
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::sync::watch;
use tracing::debug;

use super::{
    forward::{Forwarded, Forwarder},
    zone::{Answer, Zone},
};
use crate::model::MeshState;

/// The UDP size that no path fragments (DNS Flag Day 2020); a client may ask for less.
const MAX_UDP_PAYLOAD: u16 = 1232;

/// Answers requests from the zone or by forwarding.
pub(super) struct Handler {
    zone: Zone,
    forwarder: Forwarder,
    state: watch::Receiver<Arc<MeshState>>,
    /// Turns the order of addresses, so that clients that take the first spread.
    turn: AtomicUsize,
}

/// A response, but for what every response has.
struct Reply {
    code: ResponseCode,
    /// Whether it comes from our zone.
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

// === impl Handler ===

impl Handler {
    pub(super) fn new(zone: Zone, forwarder: Forwarder, state: watch::Receiver<Arc<MeshState>>) -> Self {
        Self { zone, forwarder, state, turn: AtomicUsize::new(0) }
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        if request.version() > 0 {
            return Reply::code(ResponseCode::BADVERS);
        }
        // Fails unless there is exactly one question.
        let Ok(info) = request.request_info() else { return Reply::code(ResponseCode::FormErr) };
        let (name, kind) = (info.query.name(), info.query.query_type());
        if info.query.query_class() != DNSClass::IN || matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return Reply::code(ResponseCode::Refused);
        }
        let state = self.state.borrow().clone();
        if !state.is_synced() && self.zone.owns(name) {
            return Reply::code(ResponseCode::ServFail);
        }
        match self.zone.answer(&state, name, kind) {
            Answer::Records { mut answers, additionals } => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                answers.rotate_left(turn);
                Reply { authoritative: true, answers, additionals, ..Reply::code(ResponseCode::NoError) }
            }
            Answer::Alias { record, target } => self.alias(request, &state, *record, target, kind).await,
            Answer::NoData => self.negative(&state, name, ResponseCode::NoError),
            Answer::NoName => self.negative(&state, name, ResponseCode::NXDomain),
            Answer::Elsewhere => self.forward(request, &name.into(), kind).await,
        }
    }

    fn negative(&self, state: &MeshState, name: &LowerName, code: ResponseCode) -> Reply {
        let soa = Some(self.zone.soa(name, state.version));
        Reply { authoritative: true, soa, ..Reply::code(code) }
    }

    /// Gives the alias together with what it leads to, as resolvers of applications follow none themselves.
    async fn alias(
        &self,
        request: &Request,
        state: &MeshState,
        record: Record,
        target: Name,
        kind: RecordType,
    ) -> Reply {
        // One step within the mesh; an alias of an alias stays for the client to follow, so there can be no loop.
        let within = self.zone.answer(state, &LowerName::new(&target), kind);
        let (code, found) = match within {
            Answer::Records { answers, .. } => (ResponseCode::NoError, answers),
            Answer::Alias { record, .. } => (ResponseCode::NoError, vec![*record]),
            Answer::NoData => (ResponseCode::NoError, vec![]),
            Answer::NoName => (ResponseCode::NXDomain, vec![]),
            Answer::Elsewhere => {
                let reply = self.forward(request, &target, kind).await;
                (reply.code, reply.answers)
            }
        };
        let answers = std::iter::once(record).chain(found).collect();
        Reply { authoritative: true, answers, ..Reply::code(code) }
    }

    async fn forward(&self, request: &Request, name: &Name, kind: RecordType) -> Reply {
        if !is_insider(request.src().ip()) {
            return Reply::code(ResponseCode::Refused);
        }
        match self.forwarder.lookup(name, kind).await {
            Forwarded::Records(answers) => Reply { answers, ..Reply::code(ResponseCode::NoError) },
            Forwarded::Negative { code, soa } => Reply { soa: soa.map(|soa| *soa), ..Reply::code(code) },
            Forwarded::Failed => Reply::code(ResponseCode::ServFail),
            Forwarded::Refused => Reply::code(ResponseCode::Refused),
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(response_edns);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &reply.answers, [], &reply.soa, &reply.additionals);
        response.send_response(message).await.unwrap_or_else(|error| {
            // The client is gone; whoever reads this value only counts.
            debug!(client = %request.src(), %error, "cannot send DNS response");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

fn response_edns(request: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(request.max_payload().clamp(512, MAX_UDP_PAYLOAD));
    edns.set_version(0);
    edns
}

/// Whether a client may use us to ask others.
fn is_insider(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

// === impl Reply ===

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: vec![], soa: None, additionals: vec![] }
    }
}
