//! Defaults that depend on whether a field was written, which protobuf does not tell.

use prost::Name as _;
use serde_json::{Value, json};

use crate::balancing::PeakEwma;

/// The ways to name a balancing policy, in both spellings.
const NAMED_BY: &[&str] = &["lb_policy", "lbPolicy", "load_balancing_policy", "loadBalancingPolicy"];

/// Gives peak EWMA to each static cluster of a bootstrap that names no policy.
pub(super) fn name_balancing_policies(bootstrap: &mut Value) {
    let Some(resources) = either(bootstrap, "static_resources", "staticResources") else { return };
    let Some(Value::Array(clusters)) = resources.get_mut("clusters") else { return };
    for cluster in clusters {
        // Where there is no cluster, what reads it will say so.
        let Value::Object(fields) = cluster else { continue };
        if NAMED_BY.iter().all(|name| !fields.contains_key(*name)) {
            let policy = json!({"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.peak_ewma",
                "typed_config": {"@type": PeakEwma::type_url()},
            }}]});
            fields.insert("load_balancing_policy".to_owned(), policy);
        }
    }
}

fn either<'v>(value: &'v mut Value, one: &str, other: &str) -> Option<&'v mut Value> {
    let fields = value.as_object_mut()?;
    let name = if fields.contains_key(one) { one } else { other };
    fields.get_mut(name)
}
