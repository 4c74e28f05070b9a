//! `x-forwarded-client-cert`: what upstreams are told of the client's certificate.

use super::Exchange;
use crate::{
    http::manager::{ClientCert, ForwardClientCert},
    tls::Identity,
};

const FIELD: &[u8] = b"x-forwarded-client-cert";

impl Exchange<'_> {
    /// Lets the field through, removes it, or says in it who the client is. Nobody but us can be believed to say that,
    /// so by default nobody says it.
    pub(super) fn add_client_certificate(&mut self) {
        let rules = self.cx.manager.client_cert;
        let shown = self.cx.tls.as_ref().filter(|identity| identity.peer.is_some());
        let forward = match (rules.forward, shown) {
            (ForwardClientCert::AlwaysForwardOnly, _) => return,
            (ForwardClientCert::Sanitize, _) | (_, None) => return self.request.remove(FIELD),
            (ForwardClientCert::ForwardOnly, Some(_)) => return,
            (ForwardClientCert::AppendForward, Some(_)) => true,
            (ForwardClientCert::SanitizeSet, Some(_)) => false,
        };
        let Some(ours) = shown.and_then(|identity| element(identity, rules)) else { return };
        let mut value = Vec::new();
        if forward {
            for before in self.request.get_all(FIELD) {
                value.extend_from_slice(before);
                value.push(b',');
            }
        }
        value.extend_from_slice(ours.as_bytes());
        self.request.remove(FIELD);
        self.request.append(FIELD, &value);
    }
}

/// One element of the field, in Envoy's order.
fn element(identity: &Identity, rules: ClientCert) -> Option<String> {
    let peer = identity.peer.as_ref()?;
    let mut parts: Vec<String> = identity.local.uri.iter().map(|uri| format!("By={}", quoted(uri))).collect();
    parts.push(format!("Hash={}", peer.fingerprint()));
    if rules.certificate {
        parts.push(format!("Cert=\"{}\"", peer.pem_encoded()));
    }
    if rules.chain {
        parts.push(format!("Chain=\"{}\"", peer.chain_encoded()));
    }
    if rules.subject {
        // Always in quotes, as Envoy does, since a subject is full of commas.
        parts.push(format!("Subject=\"{}\"", escaped(&peer.subject)));
    }
    if rules.uri {
        parts.extend(peer.names.uri.iter().map(|uri| format!("URI={}", quoted(uri))));
    }
    if rules.dns {
        parts.extend(peer.names.dns.iter().map(|name| format!("DNS={}", quoted(name))));
    }
    Some(parts.join(";"))
}

/// In quotes if it could be taken for more than one value.
fn quoted(text: &str) -> String {
    if text.contains([',', ';', '=', '"']) { format!("\"{}\"", escaped(text)) } else { text.to_owned() }
}

/// Without anything that could end the quotes or the field.
fn escaped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).fold(String::new(), |mut escaped, c| {
        if matches!(c, '"' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}
