//! Asking over gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use weft_xds::pb::{
    envoy::{
        config::core::v3::{
            Address, HeaderMap, HeaderValue, HeaderValueOption, SocketAddress, address::Address as Kind,
            socket_address::PortSpecifier,
        },
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::{HttpRequest, Peer, Request as RequestAttributes},
            check_response::HttpResponse,
        },
    },
    google::protobuf::Timestamp,
};

use super::{
    Decision, OwnCheck, Telling, Told,
    decision::{Answer, Changes, Field},
    scheme,
};
use crate::{
    callout::grpc::GrpcService,
    config::value,
    filter::Request,
    http::head::{Head, Known, Version},
    route::mutate::{Addition, Append},
    tls::Names,
};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const FORBIDDEN: u32 = 403;
/// Says whether the body that the service is told is not all of it.
pub(super) const PARTIAL: &str = "x-envoy-auth-partial-body";

/// Asks the service about a request.
pub(super) async fn ask(
    service: &GrpcService,
    telling: &Telling,
    request: &Request<'_>,
    told: &Told,
) -> Decision {
    let question = question(telling, request, told);
    match service.call::<_, CheckResponse>(request.cx, METHOD, &question).await {
        Ok(response) => decision(response),
        Err(error) => {
            tracing::debug!(%error, "cannot ask for authorisation");
            Decision::Failed(None)
        }
    }
}

// === the question ===

fn question(telling: &Telling, request: &Request<'_>, told: &Told) -> CheckRequest {
    let (cx, head) = (request.cx, &*request.head);
    let identity = cx.tls.as_deref();
    let peer = identity.and_then(|identity| identity.peer.as_ref());
    let source = Peer {
        address: Some(address(cx.peer)),
        service: head.get(b"x-envoy-downstream-service-cluster").map(text).unwrap_or_default(),
        principal: peer
            .map(|peer| principal(&peer.names).unwrap_or_else(|| peer.subject.clone()))
            .unwrap_or_default(),
        certificate: peer
            .filter(|_| telling.peer_certificate)
            .map(|peer| peer.pem_encoded())
            .unwrap_or_default(),
        ..Peer::default()
    };
    let destination = Peer {
        address: Some(address(cx.local)),
        principal: identity.and_then(|identity| principal(&identity.local)).unwrap_or_default(),
        ..Peer::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut http = HttpRequest {
        id: cx.worker.random.next().to_string(),
        method: text(head.method_text()),
        path: text(head.target()),
        host: text(head.authority()),
        scheme: scheme(head).to_owned(),
        protocol: match head.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
        .to_owned(),
        ..HttpRequest::default()
    };
    if telling.raw_fields {
        let headers = fields(telling, head).map(|(name, value)| HeaderValue {
            key: text(&name),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        });
        http.header_map = Some(HeaderMap { headers: headers.collect() });
    } else {
        for (name, value) in fields(telling, head) {
            let all: &mut String = http.headers.entry(text(&name)).or_default();
            if !all.is_empty() {
                all.push(',');
            }
            all.push_str(&text(value));
        }
    }
    if let Some(partial) = told.is_partial() {
        if told.as_bytes {
            http.raw_body = told.body.to_vec();
        } else {
            http.body = text(&told.body);
        }
        if let Some(map) = &mut http.header_map {
            map.headers.push(HeaderValue {
                key: PARTIAL.into(),
                raw_value: partial.into(),
                ..HeaderValue::default()
            });
        } else {
            http.headers.insert(PARTIAL.into(), partial.into());
        }
    }
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(RequestAttributes {
                time: Some(Timestamp {
                    seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
                }),
                http: Some(http),
            }),
            context_extensions: extensions(request),
            metadata_context: Some(Default::default()),
            route_metadata_context: Some(Default::default()),
            ..AttributeContext::default()
        }),
    }
}

/// What the levels of the route add, the most specific last.
fn extensions(request: &Request<'_>) -> HashMap<String, String> {
    let mut all = HashMap::new();
    for own in request.own.all::<OwnCheck>() {
        if let OwnCheck::Settings { extensions, .. } = own {
            all.extend(extensions.clone());
        }
    }
    all
}

/// The fields that the service is told, those of the request line included, their names in lower case.
fn fields<'h>(telling: &'h Telling, head: &'h Head) -> impl Iterator<Item = (Vec<u8>, &'h [u8])> {
    let line = [
        (&b":method"[..], head.method_text()),
        (b":path", head.target()),
        (b":authority", head.authority()),
        (b":scheme", scheme(head).as_bytes()),
    ];
    let line = line.into_iter().map(|(name, value)| (name.to_vec(), value));
    let others = head.fields().filter(|(known, ..)| *known != Known::Host);
    let others = others.map(|(_, name, value)| (name.to_ascii_lowercase(), value));
    line.chain(others).filter(|(name, _)| name != PARTIAL.as_bytes() && telling.tells(name))
}

fn principal(names: &Names) -> Option<String> {
    names.uri.first().or_else(|| names.dns.first()).cloned()
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(Kind::SocketAddress(SocketAddress {
            address: address.ip().to_canonical().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..SocketAddress::default()
        })),
    }
}

/// Text that protobuf can carry; what is not UTF-8 becomes `!`, as in Envoy.
fn text(value: &[u8]) -> String {
    value.utf8_chunks().fold(String::with_capacity(value.len()), |mut text, chunk| {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n('!', chunk.invalid().len()));
        text
    })
}

// === the answer ===

fn decision(response: CheckResponse) -> Decision {
    let code = response.status.map_or(0, |status| status.code);
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if code == 0 => Decision::Allowed(changes(ok)),
        _ if code == 0 => Decision::Allowed(Changes::default()),
        Some(HttpResponse::ErrorResponse(error)) => Decision::Failed(Some(answer(error, None))),
        Some(HttpResponse::DeniedResponse(denied)) => Decision::Denied(answer(denied, Some(FORBIDDEN))),
        _ => Decision::Denied(Answer { status: Some(FORBIDDEN), ..Answer::default() }),
    }
}

fn changes(ok: OkHttpResponse) -> Changes {
    let mut changes = Changes::default();
    for option in ok.headers {
        #[expect(deprecated, reason = "the only field of these that Envoy 1.40 heeds in requests")]
        let append = option.append.is_some_and(|append| append.value);
        let field = field(option.header.unwrap_or_default());
        if append { &mut changes.append } else { &mut changes.set }.push(field);
    }
    changes.remove = ok.headers_to_remove.into_iter().map(lower).collect();
    changes.response = ok.response_headers_to_add.into_iter().map(addition).collect();
    changes.set_parameters = ok
        .query_parameters_to_set
        .into_iter()
        .map(|parameter| (parameter.key.into_bytes(), parameter.value.into_bytes()))
        .collect();
    changes.remove_parameters = ok.query_parameters_to_remove.into_iter().map(String::into_bytes).collect();
    changes
}

fn addition(option: HeaderValueOption) -> Addition {
    let how = value::append(&option).unwrap_or(Append::Overwrite);
    let (name, value) = field(option.header.unwrap_or_default());
    Addition::literal(name, value, how)
}

fn answer(message: DeniedHttpResponse, default: Option<u32>) -> Answer {
    let status = message.status.map(|status| status.code).filter(|code| *code > 0);
    Answer {
        status: status.and_then(|code| u32::try_from(code).ok()).or(default),
        fields: message.headers.into_iter().map(|option| field(option.header.unwrap_or_default())).collect(),
        body: message.body.into_bytes(),
    }
}

fn field(header: HeaderValue) -> Field {
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    (lower(header.key), value)
}

fn lower(name: String) -> Vec<u8> {
    name.to_ascii_lowercase().into_bytes()
}
