//! The network filter `rbac`: the same rules for connections, before anything is read of them.
//!
//! Source: Envoy's `envoy.extensions.filters.network.rbac.v3`. Envoy decides when the first bytes come, so that a server
//! that speaks first is heard by anybody until then; here it is decided when the connection is there, after the handshake
//! where there is one.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::extensions::filters::network::rbac::v3::{Rbac as Proto, rbac::EnforcementType},
    pb::google::protobuf::Any,
};

use super::{ALLOWED, DENIED, RuleSets, config::rules, rules::Subject};
use crate::{
    config::{ConfigError, Path, unsupported, value},
    metrics::{CounterSet, NamedCounters},
};

const COUNTERS: [&str; 2] = ["envoy_rbac_allowed", "envoy_rbac_denied"];
const SHADOW_COUNTERS: [&str; 2] = ["envoy_rbac_shadow_allowed", "envoy_rbac_shadow_denied"];

/// The filter of a chain.
#[derive(Debug)]
pub(crate) struct NetworkRbac {
    sets: RuleSets,
    stats: Arc<CounterSet>,
    shadow_stats: Arc<CounterSet>,
}

pub(crate) const MESSAGE: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

/// Compiles the message at `path`.
pub(crate) fn compile(
    path: &Path,
    config: &Any,
    counters: &NamedCounters,
) -> Result<NetworkRbac, ConfigError> {
    let message = value::unpacked(path, any::unpack::<Proto>(config))?;
    unsupported!(path, message; matcher, shadow_matcher, delay_deny);
    if message.stat_prefix.is_empty() {
        return Err(path.field("stat_prefix").missing());
    }
    // With rules about the connection alone the answer is the same every time.
    if EnforcementType::try_from(message.enforcement_type).is_err() {
        return Err(path.field("enforcement_type").error("is not a known value"));
    }
    let compile = |name: &str, message: &Option<_>| {
        let path = path.field(name);
        let rules = message.as_ref().map(|message| rules(&path, message)).transpose()?;
        if rules.as_ref().is_some_and(super::rules::Rules::need_a_request) {
            return Err(path.error("headers and paths are for requests, not for connections"));
        }
        Ok::<_, ConfigError>(rules)
    };
    let prefix = ("envoy_rbac_prefix", message.stat_prefix.as_str());
    let shadow = ("envoy_rbac_shadow_prefix", message.shadow_rules_stat_prefix.as_str());
    let labels = if shadow.1.is_empty() { &[prefix][..] } else { &[prefix, shadow] };
    Ok(NetworkRbac {
        sets: RuleSets {
            rules: compile("rules", &message.rules)?,
            shadow: compile("shadow_rules", &message.shadow_rules)?,
        },
        stats: counters.get(&COUNTERS, &[prefix]),
        shadow_stats: counters.get(&SHADOW_COUNTERS, labels),
    })
}

// === impl NetworkRbac ===

impl NetworkRbac {
    /// Whether a connection may go on.
    pub(crate) fn permits(&self, subject: &Subject<'_>, worker: usize) -> bool {
        let count = |stats: &CounterSet, allowed| stats.add(worker, if allowed { ALLOWED } else { DENIED });
        if let Some(shadow) = &self.sets.shadow {
            count(&self.shadow_stats, shadow.judge(subject).0);
        }
        let Some(rules) = &self.sets.rules else { return true };
        let (allowed, _) = rules.judge(subject);
        count(&self.stats, allowed);
        allowed
    }
}
