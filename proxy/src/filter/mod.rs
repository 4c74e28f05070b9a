//! HTTP filters: what happens to a request between finding its route and acting on it.
//!
//! A filter is one file or folder here. It has a [`Filter`], which data threads call, and a [`Kind`], which makes it from
//! Envoy's message; [`config`] lists the kinds. The README's section "Writing a filter" walks through [`cdn_loop`].
//!
//! # Guarantees
//! * Request hooks run in the configured order, response hooks in the reverse one, as in Envoy.
//! * A response passes every filter that is on for its route, whoever made it: an upstream, a route, another filter.
//!   Answers to what is no request at all (malformed, refused under overload) pass none, and neither do those that turn
//!   a connection into a tunnel.
//! * A manager without filters pays one comparison for them; a filter pays one indirect call for each hook, and nothing
//!   is allocated for it unless it waits.
//! * A filter that puts a transformation around a body pays for it; a body without one is moved as if there were none.
//! * A filter never blocks its thread: what takes time is a future that it returns.

mod adaptive_concurrency;
mod admission_control;
mod buffer;
mod cdn_loop;
mod chain;
mod compressor;
pub(crate) mod config;
mod cors;
mod ext_authz;
mod fault;
pub(crate) mod grpc_web;
mod header_mutation;
mod health_check;
mod jwt_authn;
mod later;
mod live;
mod local_ratelimit;
mod on_demand;
mod overrides;
mod ratelimit;
pub(crate) mod rbac;
mod set_metadata;
mod stateful_session;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

pub(crate) use chain::{Chain, Passage};
pub(crate) use later::Later;
pub(crate) use live::{ChainRef, Filters, LiveChain};
pub(crate) use overrides::Overrides;
use overrides::Own;
pub(crate) use stateful_session::Session;

use crate::{
    cluster::{Cluster, directory::ClusterRef},
    config::{ConfigError, Path, names::Names},
    http::{
        change::{Changes, RequestBody},
        exchange::{Context, Record, Reply},
        h1::framing::BodyLength,
        head::Head,
    },
    metrics::{CounterSet, GaugeSet, NamedCounters},
    route::{Action, Route, Target},
    worker::upkeep::Upkeeps,
};
use weft_xds::pb::google::protobuf::Any;

/// One configured filter. Shared by all threads: what it counts or remembers is in atomics.
pub(crate) trait Filter: fmt::Debug + Send + Sync {
    /// Looks at the head of a request, whose route is known, and changes it or answers it.
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let _ = request;
        Step::Continue
    }

    /// Looks at the head of a response, and changes it.
    fn on_response(&self, response: Response<'_>) {
        let _ = response;
    }
}

/// What a filter sees of a request.
pub(crate) struct Request<'r> {
    pub(crate) head: &'r mut Head,
    pub(crate) cx: &'r Context,
    /// `None` if there is none, which the router answers with 404 if no filter answers before.
    pub(crate) route: Option<&'r Route>,
    /// What the access log will say.
    pub(crate) record: &'r mut Record,
    /// What the route says about this filter.
    pub(crate) own: Own<'r>,
    /// Which of the route's weighted clusters was drawn.
    drawn: usize,
    pub(crate) body: &'r mut (dyn RequestBody + 'r),
}

/// What a filter sees of a response.
pub(crate) struct Response<'r> {
    pub(crate) head: &'r mut Head,
    pub(crate) cx: &'r Context,
    /// As it was sent on, after all changes.
    pub(crate) request: &'r Head,
    pub(crate) record: &'r Record,
    /// What the route says about this filter.
    pub(crate) own: Own<'r>,
    /// Whether this filter saw the request; not so if one before it answered.
    pub(crate) saw_request: bool,
    /// To be set if the client's connection must end after this response.
    pub(crate) close: &'r mut bool,
    pub(crate) body: ResponseBody<'r>,
}

/// The body of a response, of which nothing was read yet.
pub(crate) struct ResponseBody<'r> {
    /// How it came; [`BodyLength::Empty`] if none will be sent.
    pub(crate) length: BodyLength,
    /// All of it, if the answer is one of our own.
    pub(crate) local: Option<&'r [u8]>,
    /// What is to be done to it, in this order.
    pub(crate) changes: &'r mut Changes,
}

/// How it goes on with a request.
pub(crate) enum Step<'r> {
    Continue,
    /// With this answer instead of the rest of the way.
    Reply(Box<Reply>),
    /// As the future says. It may be dropped at any time, with the exchange.
    Wait(Pin<Box<dyn Future<Output = Result<(), Box<Reply>>> + 'r>>),
}

/// How filters of one kind are made.
#[derive(Debug)]
struct Kind {
    /// The full name of the message in `http_filters`.
    message: &'static str,
    compile: Compile,
    /// The full name of the message in `typed_per_filter_config`, and what makes settings from it.
    of_route: Option<(&'static str, CompileRoute)>,
}

type Compile = fn(&Path, &Any, &mut Inputs<'_>) -> Result<Box<dyn Filter>, ConfigError>;
type CompileRoute = fn(&Path, &Any, &NamedCounters) -> Result<Settings, ConfigError>;

/// What a route says about a filter; the filter knows the type.
type Settings = Arc<dyn std::any::Any + Send + Sync>;

/// What filters are made with, beside their message.
struct Inputs<'i> {
    /// Of the connection manager.
    stat_prefix: &'i str,
    counters: &'i NamedCounters,
    /// Where clusters are found.
    names: &'i mut Names,
    /// What looks after itself.
    upkeeps: &'i Upkeeps,
    /// The compressors so far, which are all of the chain's once it is complete.
    compressors: Vec<Arc<compressor::Spec>>,
    chain: Arc<compressor::Peers>,
}

// === impl Request ===

impl Request<'_> {
    /// Where the request goes if the filters let it pass.
    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.meant()?.get(self.head)
    }

    /// The name of that, if it is not there with its endpoints.
    fn missing_cluster(&self) -> Option<String> {
        let meant =
            self.meant().filter(|meant| meant.get(self.head).is_none_or(|cluster| !cluster.is_known()))?;
        let name = std::str::from_utf8(meant.name(self.head)?).ok()?;
        Some(name.to_owned()).filter(|name| !name.is_empty())
    }

    fn meant(&self) -> Option<&ClusterRef> {
        let Action::Forward(forward) = &self.route?.action else { return None };
        match &forward.target {
            Target::One(meant) => Some(meant),
            Target::Weighted { clusters, .. } => Some(&clusters.get(self.drawn)?.cluster),
        }
    }
}

// === impl Inputs ===

impl<'i> Inputs<'i> {
    fn new(
        stat_prefix: &'i str,
        counters: &'i NamedCounters,
        names: &'i mut Names,
        upkeeps: &'i Upkeeps,
    ) -> Self {
        Self { stat_prefix, counters, names, upkeeps, compressors: Vec::new(), chain: Arc::default() }
    }
}

impl Inputs<'_> {
    /// Counters of whose names the first part is configured.
    fn named_counters(&self, prefix: &str, names: &'static [&'static str]) -> Arc<CounterSet> {
        let manager = ("envoy_http_conn_manager_prefix", self.stat_prefix);
        self.counters.with_prefix(prefix, names, &[manager])
    }

    /// Counters that carry the connection manager's prefix, as most filters' do.
    fn counters(&self, names: &'static [&'static str]) -> Arc<CounterSet> {
        self.counters.get(names, &[("envoy_http_conn_manager_prefix", self.stat_prefix)])
    }

    /// Gauges that carry the connection manager's prefix.
    fn gauges(&self, names: &'static [&'static str]) -> Arc<GaugeSet> {
        self.counters.gauges(names, &[("envoy_http_conn_manager_prefix", self.stat_prefix)])
    }

    /// The same, told apart further by a label, if it has a value.
    fn labelled_counters(
        &self,
        names: &'static [&'static str],
        label: &'static str,
        value: &str,
    ) -> Arc<CounterSet> {
        if value.is_empty() {
            return self.counters(names);
        }
        let manager = ("envoy_http_conn_manager_prefix", self.stat_prefix);
        self.counters.get(names, &[manager, (label, value)])
    }
}
