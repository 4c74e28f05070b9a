//! A message of Envoy's API that its Rust bindings do not carry yet.

use prost::{Message, Name};

use crate::pb::google::protobuf::{DoubleValue, Duration, UInt32Value};

/// The balancing policy peak EWMA: `contrib/envoy/extensions/load_balancing_policies/peak_ewma/v3alpha`.
///
/// `examples/descriptors.rs` says the same once more, for [`crate::json`].
#[derive(Clone, PartialEq, Message)]
pub struct PeakEwma {
    /// How long latency is remembered.
    #[prost(message, optional, tag = "1")]
    pub decay_time: Option<Duration>,
    /// How often Envoy's threads tell each other.
    #[prost(message, optional, tag = "2")]
    pub aggregation_interval: Option<Duration>,
    /// How much Envoy's threads remember until they do.
    #[prost(message, optional, tag = "3")]
    pub max_samples_per_host: Option<UInt32Value>,
    /// What is expected of an endpoint that has not answered yet.
    #[prost(message, optional, tag = "4")]
    pub default_rtt: Option<Duration>,
    /// What an endpoint costs that has no cost.
    #[prost(message, optional, tag = "5")]
    pub penalty_value: Option<DoubleValue>,
}

impl Name for PeakEwma {
    const NAME: &'static str = "PeakEwma";
    const PACKAGE: &'static str = "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}
