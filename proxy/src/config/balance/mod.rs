//! Compiling how a cluster balances: `lb_policy` with its settings, or `load_balancing_policy` with an extension.
//!
//! A cluster that names no policy gets peak EWMA. In protobuf the absence of `lb_policy` is ROUND_ROBIN, so over xDS a
//! cluster always names one; in a file absence can be seen, and [`weft_xds::json`] writes the default out.

mod extension;
mod found;
mod subsets;
#[cfg(test)]
mod tests;

use weft_xds::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster as ProtoCluster,
                cluster::{
                    CommonLbConfig, LbConfig, LbPolicy, SlowStartConfig,
                    common_lb_config::LocalityConfigSpecifier as CommonLocality,
                    ring_hash_lb_config::HashFunction as ProtoFunction,
                },
            },
            core::v3::{HealthStatus, HealthStatusSet, RuntimeDouble},
        },
        r#type::v3::Percent,
    },
    google::protobuf::{Duration, UInt32Value, UInt64Value},
};

use self::found::Found;
use super::{ConfigError, Path, unsupported, value};
use crate::balance::{
    Balancing, HashFunction, Key, LeastRequest, Localities, Maglev, Overridable, Policy, RingHash, SlowStart,
    ZoneAware,
};

/// Envoy's default for the share of endpoints below which health is not believed, in percent.
const PANIC_THRESHOLD: f64 = 50.0;

/// Compiles what a cluster says of balancing.
pub(super) fn compile(path: &Path, message: &ProtoCluster) -> Result<Balancing, ConfigError> {
    let none = CommonLbConfig::default();
    let common = message.common_lb_config.as_ref().unwrap_or(&none);
    {
        let path = path.field("common_lb_config");
        unsupported!(path, common; close_connections_on_host_set_change);
    }
    let panic_threshold =
        common.healthy_panic_threshold.as_ref().map_or(PANIC_THRESHOLD, |percent| percent.value);
    let localities = match &common.locality_config_specifier {
        Some(CommonLocality::LocalityWeightedLbConfig(_)) => Localities::Weighted,
        Some(CommonLocality::ZoneAwareLbConfig(config)) => found::zone_aware(
            &path.field("common_lb_config").field("zone_aware_lb_config"),
            config.routing_enabled.as_ref(),
            config.min_cluster_size.as_ref(),
            config.fail_traffic_on_panic,
        )?,
        None => Localities::ByZone(ZoneAware::default()),
    };
    let found = match &message.load_balancing_policy {
        Some(policy) => extension::compile(&path.field("load_balancing_policy"), policy, localities)?,
        None => {
            let (policy, slow_start) = enumerated(path, message, common)?;
            let subsets = message.lb_subset_config.as_ref();
            let subsets = subsets.map(|config| subsets::of_cluster(&path.field("lb_subset_config"), config));
            Found { slow_start, subsets: subsets.transpose()?.flatten(), ..Found::new(policy, localities) }
        }
    };
    let ignore_new = common.ignore_new_hosts_until_first_hc;
    let overridable = overridable(
        &path.field("common_lb_config").field("override_host_status"),
        common.override_host_status.as_ref(),
    )?;
    Ok(Balancing { panic_threshold, ignore_new, overridable, ..found.into_balancing() })
}

/// In which states an endpoint may be that a request insists on.
fn overridable(path: &Path, message: Option<&HealthStatusSet>) -> Result<Overridable, ConfigError> {
    let Some(set) = message else { return Ok(Overridable::default()) };
    let has = |status: HealthStatus| set.statuses.contains(&(status as i32));
    // To us these are one and the same.
    let healthy = [HealthStatus::Unknown, HealthStatus::Healthy, HealthStatus::Degraded].map(has);
    if healthy.contains(&true) && healthy.contains(&false) {
        return Err(path.error("UNKNOWN, HEALTHY and DEGRADED are only supported together"));
    }
    Ok(Overridable {
        healthy: healthy[0],
        draining: has(HealthStatus::Draining),
        unhealthy: has(HealthStatus::Unhealthy) || has(HealthStatus::Timeout),
    })
}

/// The policy that `lb_policy` names. As in Envoy, settings of another policy than the chosen one are no error.
fn enumerated(
    path: &Path,
    message: &ProtoCluster,
    common: &CommonLbConfig,
) -> Result<(Policy, Option<SlowStart>), ConfigError> {
    let policy = LbPolicy::try_from(message.lb_policy)
        .map_err(|_| path.field("lb_policy").error("is not a known value"))?;
    let key = || match &common.consistent_hashing_lb_config {
        None => Ok(Key::default()),
        Some(config) => key(
            &path.field("common_lb_config").field("consistent_hashing_lb_config"),
            config.use_hostname_for_hashing,
            config.hash_balance_factor.as_ref(),
        ),
    };
    let slow = |path: &Path, config: Option<&SlowStartConfig>| {
        let path = path.field("slow_start_config");
        config
            .map(|config| {
                slow_start(
                    &path,
                    config.slow_start_window.as_ref(),
                    config.aggression.as_ref(),
                    config.min_weight_percent.as_ref(),
                )
            })
            .transpose()
    };
    let mut slow_start = None;
    let policy: Result<Policy, ConfigError> = match (policy, &message.lb_config) {
        (LbPolicy::RoundRobin, config) => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = config {
                slow_start = slow(&path.field("round_robin_lb_config"), config.slow_start_config.as_ref())?;
            }
            Ok(Policy::RoundRobin)
        }
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let path = path.field("least_request_lb_config");
            slow_start = slow(&path, config.slow_start_config.as_ref())?;
            least_request(&path, config.choice_count.as_ref(), config.active_request_bias.as_ref())
                .map(Policy::LeastRequest)
        }
        (LbPolicy::LeastRequest, _) => Ok(Policy::LeastRequest(LeastRequest::default())),
        (LbPolicy::Random, _) => Ok(Policy::Random),
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            let path = path.field("ring_hash_lb_config");
            let function = match ProtoFunction::try_from(config.hash_function) {
                Ok(ProtoFunction::XxHash) => HashFunction::Xx,
                Ok(ProtoFunction::MurmurHash2) => HashFunction::Murmur2,
                Err(_) => return Err(path.field("hash_function").error("is not a known value")),
            };
            ring_hash(
                &path,
                config.minimum_ring_size.as_ref(),
                config.maximum_ring_size.as_ref(),
                function,
                key()?,
            )
            .map(Policy::RingHash)
        }
        (LbPolicy::RingHash, _) => Ok(Policy::RingHash(RingHash { key: key()?, ..RingHash::default() })),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            maglev(&path.field("maglev_lb_config"), config.table_size.as_ref(), key()?).map(Policy::Maglev)
        }
        (LbPolicy::Maglev, _) => Ok(Policy::Maglev(Maglev { key: key()?, ..Maglev::default() })),
        // The cluster is one that picks by itself; nothing asks for this policy.
        (LbPolicy::ClusterProvided, _) => Ok(Policy::RoundRobin),
        (LbPolicy::LoadBalancingPolicyConfig, _) => Err(path.field("load_balancing_policy").missing()),
    };
    Ok((policy?, slow_start))
}

/// What both messages of slow start say.
fn slow_start(
    path: &Path,
    window: Option<&Duration>,
    aggression: Option<&RuntimeDouble>,
    least: Option<&Percent>,
) -> Result<SlowStart, ConfigError> {
    let window = value::maybe_duration(&path.field("slow_start_window"), window)?
        .filter(|window| !window.is_zero())
        .ok_or_else(|| path.field("slow_start_window").missing())?;
    let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
    // Not a number is no number above 0.
    if !(aggression > 0.0 && aggression.is_finite()) {
        return Err(path.field("aggression").error("must be more than 0"));
    }
    let least = least.map_or(10.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&least) {
        return Err(path.field("min_weight_percent").error("must be from 0 to 100"));
    }
    Ok(SlowStart { window, aggression, least: least / 100.0 })
}

fn least_request(
    path: &Path,
    choices: Option<&UInt32Value>,
    bias: Option<&RuntimeDouble>,
) -> Result<LeastRequest, ConfigError> {
    let choices = value::number(choices, 2);
    if choices < 2 {
        return Err(path.field("choice_count").error("must be at least 2"));
    }
    let active_bias = bias.map_or(1.0, |bias| bias.default_value);
    if !(0.0..=100.0).contains(&active_bias) {
        return Err(path.field("active_request_bias").error("must be from 0 to 100"));
    }
    Ok(LeastRequest { choices: choices as usize, active_bias })
}

fn ring_hash(
    path: &Path,
    minimum: Option<&UInt64Value>,
    maximum: Option<&UInt64Value>,
    function: HashFunction,
    key: Key,
) -> Result<RingHash, ConfigError> {
    let default = RingHash::default();
    let minimum_size = minimum.map_or(default.minimum, |size| size.value);
    let maximum_size = maximum.map_or(default.maximum, |size| size.value);
    for (name, size) in [("minimum_ring_size", minimum_size), ("maximum_ring_size", maximum_size)] {
        if size == 0 || size > RingHash::MOST {
            return Err(path.field(name).error(format!("must be from 1 to {}", RingHash::MOST)));
        }
    }
    if minimum_size > maximum_size {
        return Err(path.field("minimum_ring_size").error("must not exceed maximum_ring_size"));
    }
    Ok(RingHash { minimum: minimum_size, maximum: maximum_size, function, key })
}

fn maglev(path: &Path, size: Option<&UInt64Value>, key: Key) -> Result<Maglev, ConfigError> {
    let size = size.map_or(Maglev::default().size, |size| size.value);
    // Only then does every order of preference reach every entry.
    if size > Maglev::MOST || !is_prime(size) {
        return Err(path.field("table_size").error(format!("must be a prime of at most {}", Maglev::MOST)));
    }
    Ok(Maglev { size, key })
}

fn key(path: &Path, hostname: bool, bound: Option<&UInt32Value>) -> Result<Key, ConfigError> {
    if bound.is_some_and(|factor| factor.value < 100) {
        return Err(path.field("hash_balance_factor").error("must be at least 100"));
    }
    Ok(Key { hostname, bound: bound.map(|factor| factor.value) })
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
