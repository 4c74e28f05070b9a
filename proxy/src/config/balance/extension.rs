//! Policies as extensions, `envoy.extensions.load_balancing_policies`.

use std::time::Duration;

use weft_xds::{
    any,
    balancing::PeakEwma as ProtoPeakEwma,
    pb::envoy::{
        config::cluster::v3::LoadBalancingPolicy,
        extensions::load_balancing_policies::{
            client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin,
            common::v3::{
                ConsistentHashingLbConfig, LocalityLbConfig, SlowStartConfig,
                locality_lb_config::LocalityConfigSpecifier,
            },
            least_request::v3::{LeastRequest as ProtoLeastRequest, least_request::SelectionMethod},
            maglev::v3::Maglev as ProtoMaglev,
            random::v3::Random as ProtoRandom,
            ring_hash::v3::{RingHash as ProtoRingHash, ring_hash::HashFunction as ProtoFunction},
            round_robin::v3::RoundRobin as ProtoRoundRobin,
            wrr_locality::v3::WrrLocality,
        },
    },
    pb::google::protobuf::Any,
};

use super::{
    found::{self, Found},
    key, least_request, maglev, ring_hash, slow_start, subsets,
};
use crate::{
    balance::{
        HashFunction, Key, LeastRequest, LoadReports, Localities, PeakEwma, Policy, SlowStart, ZoneAware,
    },
    config::{ConfigError, Path, unsupported, value},
};

const PACKAGE: &str = "envoy.extensions.load_balancing_policies.";

/// The first of the list that is known here, as in Envoy. `default` is for policies that have no word on localities.
pub(super) fn compile(
    path: &Path,
    message: &LoadBalancingPolicy,
    default: Localities,
) -> Result<Found, ConfigError> {
    for (index, policy) in message.policies.iter().enumerate() {
        let path = path.item("policies", index).field("typed_extension_config");
        let config = policy.typed_extension_config.as_ref().ok_or_else(|| path.missing())?;
        let path = path.field("typed_config");
        let config = config.typed_config.as_ref().ok_or_else(|| path.missing())?;
        if let Some(found) = known(&path, config, default)? {
            return Ok(found);
        }
    }
    Err(path.field("policies").error("none of them is supported"))
}

fn known(path: &Path, config: &Any, default: Localities) -> Result<Option<Found>, ConfigError> {
    Ok(Some(match any::type_name(&config.type_url).strip_prefix(PACKAGE) {
        Some("round_robin.v3.RoundRobin") => {
            let message: ProtoRoundRobin = value::unpacked(path, any::unpack(config))?;
            let slow_start = slow(path, message.slow_start_config.as_ref())?;
            let localities = localities(path, message.locality_lb_config.as_ref())?;
            Found { slow_start, ..Found::new(Policy::RoundRobin, localities) }
        }
        Some("least_request.v3.LeastRequest") => {
            let message: ProtoLeastRequest = value::unpacked(path, any::unpack(config))?;
            let slow_start = slow(path, message.slow_start_config.as_ref())?;
            let mut settings =
                least_request(path, message.choice_count.as_ref(), message.active_request_bias.as_ref())?;
            #[expect(deprecated, reason = "older configurations still use it")]
            let full_scan = message.enable_full_scan.as_ref().is_some_and(|scan| scan.value);
            if full_scan || message.selection_method == SelectionMethod::FullScan as i32 {
                settings.choices = LeastRequest::ALL;
            }
            let localities = localities(path, message.locality_lb_config.as_ref())?;
            Found { slow_start, ..Found::new(Policy::LeastRequest(settings), localities) }
        }
        Some("peak_ewma.v3alpha.PeakEwma") => {
            let message: ProtoPeakEwma = value::unpacked(path, any::unpack(config))?;
            Found::new(Policy::PeakEwma(peak_ewma(path, &message)?), default)
        }
        Some("random.v3.Random") => {
            let message: ProtoRandom = value::unpacked(path, any::unpack(config))?;
            Found::new(Policy::Random, localities(path, message.locality_lb_config.as_ref())?)
        }
        Some("ring_hash.v3.RingHash") => {
            let message: ProtoRingHash = value::unpacked(path, any::unpack(config))?;
            let localities = weighted(message.locality_weighted_lb_config.is_some());
            Found::new(Policy::RingHash(ring(path, &message)?), localities)
        }
        Some("maglev.v3.Maglev") => {
            let message: ProtoMaglev = value::unpacked(path, any::unpack(config))?;
            let key = match &message.consistent_hashing_lb_config {
                Some(config) => consistent(&path.field("consistent_hashing_lb_config"), config)?,
                None => Key::default(),
            };
            let settings = maglev(path, message.table_size.as_ref(), key)?;
            let localities = weighted(message.locality_weighted_lb_config.is_some());
            Found::new(Policy::Maglev(settings), localities)
        }
        Some("wrr_locality.v3.WrrLocality") => {
            let message: WrrLocality = value::unpacked(path, any::unpack(config))?;
            let path = path.field("endpoint_picking_policy");
            let inner = message.endpoint_picking_policy.as_ref().ok_or_else(|| path.missing())?;
            Found { localities: Localities::Weighted, ..compile(&path, inner, default)? }
        }
        Some("client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin") => {
            let message: ClientSideWeightedRoundRobin = value::unpacked(path, any::unpack(config))?;
            let slow_start = slow(path, message.slow_start_config.as_ref())?;
            let reports = Some(load_reports(path, &message)?);
            Found { slow_start, reports, ..Found::new(Policy::RoundRobin, default) }
        }
        Some("subset.v3.Subset") => subsets::of_extension(path, config, default)?,
        // The cluster is one that picks by itself; nothing asks for this policy.
        Some("cluster_provided.v3.ClusterProvided") => Found::new(Policy::RoundRobin, Localities::Ignored),
        _ => return Ok(None),
    }))
}

fn ring(path: &Path, message: &ProtoRingHash) -> Result<crate::balance::RingHash, ConfigError> {
    let function = match ProtoFunction::try_from(message.hash_function) {
        Ok(ProtoFunction::DefaultHash | ProtoFunction::XxHash) => HashFunction::Xx,
        Ok(ProtoFunction::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return Err(path.field("hash_function").error("is not a known value")),
    };
    let key = match &message.consistent_hashing_lb_config {
        Some(config) => consistent(&path.field("consistent_hashing_lb_config"), config)?,
        #[expect(deprecated, reason = "older configurations still use these")]
        None => key(path, message.use_hostname_for_hashing, message.hash_balance_factor.as_ref())?,
    };
    ring_hash(path, message.minimum_ring_size.as_ref(), message.maximum_ring_size.as_ref(), function, key)
}

fn slow(path: &Path, config: Option<&SlowStartConfig>) -> Result<Option<SlowStart>, ConfigError> {
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
}

fn peak_ewma(path: &Path, message: &ProtoPeakEwma) -> Result<PeakEwma, ConfigError> {
    // How Envoy's threads tell each other; ours share what they know. The penalty is for hosts without a latency, which
    // here is `default_rtt`.
    unsupported!(path, message; aggregation_interval, max_samples_per_host, penalty_value);
    let default = PeakEwma::default();
    let set = |name: &str, value, default| {
        let path = path.field(name);
        match value::maybe_duration(&path, value)? {
            None => Ok(default),
            Some(value) if value.is_zero() => Err(path.error("must be more than 0")),
            Some(value) => Ok(value),
        }
    };
    Ok(PeakEwma {
        decay: set("decay_time", message.decay_time.as_ref(), default.decay)?,
        unknown: set("default_rtt", message.default_rtt.as_ref(), default.unknown)?,
    })
}

fn consistent(path: &Path, message: &ConsistentHashingLbConfig) -> Result<Key, ConfigError> {
    unsupported!(path, message; hash_policy);
    key(path, message.use_hostname_for_hashing, message.hash_balance_factor.as_ref())
}

fn load_reports(path: &Path, message: &ClientSideWeightedRoundRobin) -> Result<LoadReports, ConfigError> {
    if message.enable_oob_load_report.as_ref().is_some_and(|enable| enable.value) {
        return Err(path.field("enable_oob_load_report").unsupported());
    }
    let default = LoadReports::default();
    let duration = |name: &str, value, default| {
        Ok::<_, ConfigError>(value::maybe_duration(&path.field(name), value)?.unwrap_or(default))
    };
    let penalty = message
        .error_utilization_penalty
        .as_ref()
        .map_or(default.penalty, |penalty| f64::from(penalty.value));
    if !(penalty >= 0.0 && penalty.is_finite()) {
        return Err(path.field("error_utilization_penalty").error("must be at least 0"));
    }
    let period = duration("weight_update_period", message.weight_update_period.as_ref(), default.period)?;
    Ok(LoadReports {
        blackout: duration("blackout_period", message.blackout_period.as_ref(), default.blackout)?,
        expiration: duration(
            "weight_expiration_period",
            message.weight_expiration_period.as_ref(),
            default.expiration,
        )?,
        // As gRFC A58 has it.
        period: period.max(Duration::from_millis(100)),
        penalty,
        metrics: message.metric_names_for_computing_utilization.clone(),
    })
}

fn localities(path: &Path, message: Option<&LocalityLbConfig>) -> Result<Localities, ConfigError> {
    match message.and_then(|message| message.locality_config_specifier.as_ref()) {
        None => Ok(Localities::ByZone(ZoneAware::default())),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Ok(Localities::Weighted),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
            let path = path.field("locality_lb_config").field("zone_aware_lb_config");
            unsupported!(path, config; force_local_zone, locality_basis);
            #[expect(deprecated, reason = "checked only to be refused")]
            {
                unsupported!(path, config; force_locality_direct_routing);
            }
            found::zone_aware(
                &path,
                config.routing_enabled.as_ref(),
                config.min_cluster_size.as_ref(),
                config.fail_traffic_on_panic,
            )
        }
    }
}

fn weighted(weighted: bool) -> Localities {
    if weighted { Localities::Weighted } else { Localities::Ignored }
}
