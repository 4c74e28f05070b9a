//! `/certs`: the certificates in force, as Envoy shows them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Admin;
use crate::tls::material::Shown;

impl Admin {
    pub(super) fn certificates(&self) -> Value {
        let all = self.state.lock().tls_material();
        let now = Timestamp::now().as_second();
        let list = |shown: &[Shown]| shown.iter().map(|shown| certificate(shown, now)).collect::<Vec<_>>();
        let certificates: Vec<Value> = all
            .iter()
            .map(|material| json!({"ca_cert": list(&material.authorities), "cert_chain": list(&material.ours)}))
            .collect();
        json!({ "certificates": certificates })
    }
}

fn certificate(shown: &Shown, now: i64) -> Value {
    let names = &shown.names;
    let uris = names.uri.iter().map(|name| json!({ "uri": name }));
    let dns = names.dns.iter().map(|name| json!({ "dns": name }));
    let addresses = names.ip.iter().map(|address| json!({"ip_address": address.to_string()}));
    json!({
        "path": shown.path,
        "serial_number": shown.serial,
        "subject_alt_names": uris.chain(dns).chain(addresses).collect::<Vec<_>>(),
        // 64 bits are text in the JSON of protobuf.
        "days_until_expiration": shown.days_left(now).to_string(),
        "valid_from": time(shown.valid_from),
        "expiration_time": time(shown.expires),
    })
}

/// RFC 3339; nothing for a year that it cannot write.
fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
