//! What a route configuration says in plain words, and that a look-up gives just that.
//!
//! The words are written down once more here, as simply as can be: hosts one after the other, routes one after the
//! other, matches on texts. Nothing of it is shared with what is tested.

use std::{ops::Range, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use weft_xds::{any, json::any_from_json, pb::envoy::config::route::v3::RouteConfiguration};

use super::{Path, compile};
use crate::{
    balance::Random,
    config::names::Names,
    http::head::{Head, Method},
    route::{matcher::Asked, table::RouteTable},
    runtime::Runtime,
};

#[derive(Debug, Clone)]
struct Host {
    domains: Vec<String>,
    routes: Vec<Rule>,
}

/// When a route applies.
#[derive(Debug, Clone)]
struct Rule {
    path: PathRule,
    ignore_case: bool,
    headers: Vec<HeaderRule>,
    query: Option<(&'static str, ValueRule)>,
    grpc: bool,
    certificate: Option<bool>,
}

#[derive(Debug, Clone)]
enum PathRule {
    Prefix(String),
    Exact(String),
    Separated(String),
    /// The text, and then only letters `a` and `b`.
    Regex(String),
    /// The text as whole segments, and one more.
    Template(String),
    Connect,
}

#[derive(Debug, Clone)]
struct HeaderRule {
    name: &'static str,
    value: ValueRule,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Debug, Clone)]
enum ValueRule {
    Present(bool),
    Text {
        kind: &'static str,
        text: String,
        ignore_case: bool,
    },
    /// For fields only.
    Range(Range<i64>),
}

#[derive(Debug, Clone)]
struct Request {
    method: &'static str,
    host: String,
    path: String,
    query: Vec<(&'static str, String)>,
    fields: Vec<(&'static str, String)>,
    grpc: bool,
    certificate: bool,
}

// === what is said ===

impl Rule {
    fn holds(&self, request: &Request) -> bool {
        let connect = request.method == "CONNECT";
        let lower = |text: &str| if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let path = lower(&request.path);
        let path_holds = match &self.path {
            PathRule::Connect => connect,
            _ if connect => false,
            PathRule::Prefix(text) => path.starts_with(&lower(text)),
            PathRule::Exact(text) => path == lower(text),
            PathRule::Separated(text) => {
                path == lower(text) || path.starts_with(&format!("{}/", lower(text)))
            }
            PathRule::Regex(text) => request
                .path
                .strip_prefix(text.as_str())
                .is_some_and(|rest| rest.chars().all(|c| "ab".contains(c))),
            PathRule::Template(text) => request
                .path
                .strip_prefix(&format!("{text}/"))
                .is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
        };
        let first =
            |name| request.query.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
        path_holds
            && self.headers.iter().all(|rule| rule.holds(request))
            && self.query.as_ref().is_none_or(|(name, rule)| match rule {
                ValueRule::Present(wanted) => first(*name).is_some() == *wanted,
                rule => first(*name).is_some_and(|value| rule.meets(value)),
            })
            && (!self.grpc || request.grpc)
            && self.certificate.is_none_or(|wanted| wanted == request.certificate)
    }
}

impl HeaderRule {
    fn holds(&self, request: &Request) -> bool {
        let mut values: Vec<&str> = match self.name {
            ":method" => vec![request.method],
            name => {
                request.fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str()).collect()
            }
        };
        if values.is_empty() && self.missing_is_empty {
            values.push("");
        }
        let met = match &self.value {
            ValueRule::Present(wanted) => values.is_empty() != *wanted,
            _ if values.is_empty() => return false,
            rule => values.iter().any(|value| rule.meets(value)),
        };
        met != self.invert
    }
}

impl ValueRule {
    fn meets(&self, value: &str) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::Range(range) => value.parse().is_ok_and(|number: i64| range.contains(&number)),
            Self::Text { kind: "safe_regex", text, .. } => {
                value.strip_prefix(text.as_str()).is_some_and(|rest| rest.chars().all(|c| c == 'b'))
            }
            Self::Text { kind, text, ignore_case } => {
                let lower =
                    |text: &str| if *ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
                let (value, text) = (lower(value), lower(text));
                match *kind {
                    "exact" => value == text,
                    "prefix" => value.starts_with(&text),
                    "suffix" => value.ends_with(&text),
                    _ => value.contains(&text),
                }
            }
        }
    }
}

/// The host that counts: by its whole name, else by the longest end, else by the longest beginning, else any.
fn host_of<'h>(hosts: &'h [Host], name: &str) -> Option<(usize, &'h Host)> {
    let name = name.to_ascii_lowercase();
    let rank = |domain: &str| match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(""), _) => Some((0, 0)),
        (Some(end), _) => (name.len() > end.len() && name.ends_with(end)).then_some((2, end.len())),
        (_, Some(start)) => (name.len() > start.len() && name.starts_with(start)).then_some((1, start.len())),
        _ => (domain == name).then_some((3, 0)),
    };
    let ranked = hosts.iter().enumerate().flat_map(|(number, host)| {
        host.domains.iter().filter_map(move |domain| Some((rank(domain)?, number, host)))
    });
    ranked.max_by_key(|(rank, _, _)| *rank).map(|(_, number, host)| (number, host))
}

fn expected(hosts: &[Host], request: &Request) -> Option<String> {
    let (number, host) = host_of(hosts, &request.host)?;
    host.routes.iter().position(|rule| rule.holds(request)).map(|route| format!("{number}-{route}"))
}

// === how it is configured ===

fn configuration(hosts: &[Host]) -> Value {
    let route = |name: String, rule: &Rule| {
        let mut matches = match &rule.path {
            PathRule::Prefix(text) => json!({"prefix": text}),
            PathRule::Exact(text) => json!({"path": text}),
            PathRule::Separated(text) => json!({"path_separated_prefix": text}),
            PathRule::Regex(text) => json!({"safe_regex": {"regex": format!("{text}[ab]*")}}),
            PathRule::Template(text) => json!({"path_match_policy": {"name": "template", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": format!("{text}/*"),
            }}}),
            PathRule::Connect => json!({"connect_matcher": {}}),
        };
        matches["case_sensitive"] = (!rule.ignore_case).into();
        matches["headers"] = rule.headers.iter().map(HeaderRule::configured).collect();
        if let Some((name, value)) = &rule.query {
            let mut query = value.configured();
            query["name"] = (*name).into();
            matches["query_parameters"] = json!([query]);
        }
        if rule.grpc {
            matches["grpc"] = json!({});
        }
        if let Some(wanted) = rule.certificate {
            matches["tls_context"] = json!({"presented": wanted});
        }
        json!({"name": name, "match": matches, "direct_response": {"status": 200}})
    };
    let hosts: Vec<Value> = hosts
        .iter()
        .enumerate()
        .map(|(number, host)| {
            let routes: Vec<Value> = host
                .routes
                .iter()
                .enumerate()
                .map(|(index, rule)| route(format!("{number}-{index}"), rule))
                .collect();
            json!({"name": number.to_string(), "domains": host.domains, "routes": routes})
        })
        .collect();
    json!({"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "virtual_hosts": hosts})
}

impl HeaderRule {
    fn configured(&self) -> Value {
        let mut rule = self.value.configured();
        rule["name"] = self.name.into();
        rule["invert_match"] = self.invert.into();
        rule["treat_missing_header_as_empty"] = self.missing_is_empty.into();
        rule
    }
}

impl ValueRule {
    fn configured(&self) -> Value {
        match self {
            Self::Present(wanted) => json!({"present_match": wanted}),
            Self::Range(range) => json!({"range_match": {"start": range.start, "end": range.end}}),
            Self::Text { kind: "safe_regex", text, .. } => {
                json!({"string_match": {"safe_regex": {"regex": format!("{text}b*")}}})
            }
            Self::Text { kind, text, ignore_case } => {
                json!({"string_match": {*kind: text, "ignore_case": ignore_case}})
            }
        }
    }
}

fn compiled(hosts: &[Host]) -> RouteTable {
    let message = any_from_json(&configuration(hosts)).expect("known messages");
    let message = any::unpack::<RouteConfiguration>(&message).expect("a route configuration");
    compile(&Path::root("r"), &message, &mut Names::new(Arc::default(), Arc::default())).expect("valid")
}

fn found(table: &RouteTable, request: &Request) -> Option<String> {
    let mut head = Head::default();
    head.reset(b"");
    let method = match request.method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        _ => Method::Connect,
    };
    let text = head.intern(request.method.as_bytes());
    head.set_method(method, text);
    let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let target = head.intern(format!("{}?{}", request.path, query.join("&")).as_bytes());
    head.set_target(target);
    let authority = head.intern(request.host.as_bytes());
    head.set_authority(authority);
    for (name, value) in &request.fields {
        head.append(name.as_bytes(), value.as_bytes());
    }
    if request.grpc {
        head.append(b"content-type", b"application/grpc+proto");
    }
    let asked = Asked {
        head: &head,
        certificate: request.certificate,
        random: &Random::new(1),
        runtime: &Runtime::default(),
        parameters: true,
    };
    table.find(&asked).map(|route| route.name.to_string())
}

// === what is tried ===

// Few letters and short texts: they often begin and end with each other.

fn path() -> impl Strategy<Value = String> {
    "(/[abA]{0,2}){1,3}"
}

fn path_rule() -> impl Strategy<Value = PathRule> {
    prop_oneof![
        path().prop_map(PathRule::Prefix),
        path().prop_map(PathRule::Exact),
        "(/[abA]{1,2}){1,2}".prop_map(PathRule::Separated),
        path().prop_map(PathRule::Regex),
        "(/[ab]{1,2}){1,2}".prop_map(PathRule::Template),
        Just(PathRule::Connect),
    ]
}

fn text_rule() -> impl Strategy<Value = ValueRule> {
    let kinds = select(vec!["exact", "prefix", "suffix", "contains", "safe_regex"]);
    (kinds, "[abA]{1,2}", any::<bool>()).prop_map(|(kind, text, ignore_case)| ValueRule::Text {
        kind,
        text,
        ignore_case,
    })
}

fn header_rule() -> impl Strategy<Value = HeaderRule> {
    let value = prop_oneof![
        any::<bool>().prop_map(ValueRule::Present),
        text_rule(),
        (0..3i64, 3..6i64).prop_map(|(start, end)| ValueRule::Range(start..end)),
    ];
    (select(vec!["x-a", "x-b", ":method"]), value, any::<bool>(), any::<bool>()).prop_map(
        |(name, value, invert, missing_is_empty)| HeaderRule { name, value, invert, missing_is_empty },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let query = prop_oneof![any::<bool>().prop_map(ValueRule::Present), text_rule()];
    let query = option::weighted(0.2, (select(vec!["p", "q"]), query));
    let headers = prop_oneof![3 => Just(Vec::new()), 1 => vec(header_rule(), 1..3)];
    (
        path_rule(),
        any::<bool>(),
        headers,
        query,
        prop::bool::weighted(0.1),
        option::weighted(0.1, any::<bool>()),
    )
        .prop_map(|(path, ignore_case, headers, query, grpc, certificate)| Rule {
            path,
            ignore_case,
            headers,
            query,
            grpc,
            certificate,
        })
}

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    let domain = prop_oneof!["[ab.]{1,3}", "\\*[ab.]{0,3}", "[ab.]{1,3}\\*"];
    vec((vec(domain, 1..3), vec(rule(), 0..25)), 1..6).prop_map(|hosts| {
        let mut seen = std::collections::HashSet::new();
        let hosts = hosts.into_iter().map(|(mut domains, routes)| {
            domains.retain(|domain| seen.insert(domain.clone()));
            Host { domains, routes }
        });
        hosts.filter(|host| !host.domains.is_empty()).collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let value = || prop_oneof!["[abA]{0,3}", "[0-6]"];
    (
        select(vec!["GET", "GET", "POST", "CONNECT"]),
        "[abAB.]{1,4}",
        path(),
        vec((select(vec!["p", "q"]), value()), 0..3),
        vec((select(vec!["x-a", "x-b"]), value()), 0..3),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(method, host, path, query, fields, grpc, certificate)| Request {
            method,
            host,
            path,
            query,
            fields,
            grpc,
            certificate,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_request_gets_the_route_that_the_configuration_says(hosts in hosts(), requests in vec(request(), 50)) {
        let table = compiled(&hosts);
        for request in requests {
            prop_assert_eq!(found(&table, &request), expected(&hosts, &request), "{:?}", request);
        }
    }
}
