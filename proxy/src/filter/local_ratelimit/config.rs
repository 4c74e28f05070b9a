//! Compiling `LocalRateLimit`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_xds::{
    any,
    pb::envoy::{
        extensions::{
            common::ratelimit::v3::LocalRateLimitDescriptor,
            filters::http::local_ratelimit::v3::LocalRateLimit as Proto,
        },
        r#type::v3::TokenBucket as ProtoBucket,
    },
};

use super::{COUNTERS, Descriptor, Limit, LocalRateLimit, TokenBucket};
use crate::{
    config::{ConfigError, Path, rate_limit, unsupported, value},
    filter::Kind,
    metrics::NamedCounters,
    route::mutate::Mutation,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: MESSAGE,
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(LocalRateLimit { base: Arc::new(limit(path, &message, inputs.counters)?) }))
    },
    of_route: Some((MESSAGE, |path, config, counters| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Arc::new(limit(path, &message, counters)?))
    })),
};

const MESSAGE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// What Envoy demands of the time between two fills.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

const TOO_MANY_REQUESTS: u16 = 429;
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const GRPC_UNAVAILABLE: u8 = 14;

fn limit(path: &Path, message: &Proto, counters: &NamedCounters) -> Result<Limit, ConfigError> {
    unsupported!(path, message; local_rate_limit_per_downstream_connection, local_cluster_rate_limit,
        enable_x_ratelimit_headers, vh_rate_limits, max_dynamic_descriptors, enable_retry_after_header);
    if message.stat_prefix.is_empty() {
        return Err(path.field("stat_prefix").missing());
    }
    let bucket = message.token_bucket.as_ref();
    let mut descriptors = message
        .descriptors
        .iter()
        .enumerate()
        .map(|(index, message)| descriptor(&path.item("descriptors", index), message))
        .collect::<Result<Vec<_>, _>>()?;
    // The slowest first, as in Envoy: what is scarce decides before what is plenty is spent.
    descriptors.sort_by_key(|descriptor| std::cmp::Reverse(descriptor.bucket.cost()));
    let status = message.status.map_or(0, |status| status.code);
    let tell_client = value::mutation(path, "response", &message.response_headers_to_add, &[])?;
    let tell_upstream = message.request_headers_to_add_when_not_enforced.iter().enumerate();
    Ok(Limit {
        bucket: bucket.map(|message| token_bucket(&path.field("token_bucket"), message)).transpose()?,
        descriptors,
        always_common: message.always_consume_default_token_bucket.is_none_or(|always| always.value),
        rate_limits: rate_limit::compile(path, &message.rate_limits)?,
        stage: message.stage,
        enabled: value::runtime_share(&path.field("filter_enabled"), message.filter_enabled.as_ref(), 0)?,
        enforced: value::runtime_share(&path.field("filter_enforced"), message.filter_enforced.as_ref(), 0)?,
        // As in Envoy: what is no error does not tell anybody to slow down.
        status: u16::try_from(status)
            .ok()
            .filter(|status| (400..600).contains(status))
            .unwrap_or(TOO_MANY_REQUESTS),
        grpc_status: if message.rate_limited_as_resource_exhausted {
            GRPC_RESOURCE_EXHAUSTED
        } else {
            GRPC_UNAVAILABLE
        },
        tell_upstream: tell_upstream
            .map(|(index, option)| {
                value::addition(&path.item("request_headers_to_add_when_not_enforced", index), option)
            })
            .collect::<Result<_, _>>()?,
        tell_client: (tell_client != Mutation::default()).then(|| Arc::new(tell_client)),
        stats: counters
            .get(&COUNTERS, &[("envoy_local_http_ratelimit_prefix", message.stat_prefix.as_str())]),
    })
}

fn descriptor(path: &Path, message: &LocalRateLimitDescriptor) -> Result<Descriptor, ConfigError> {
    unsupported!(path, message; shadow_mode);
    if message.entries.is_empty() {
        return Err(path.field("entries").missing());
    }
    let mut entries = Vec::with_capacity(message.entries.len());
    for (index, entry) in message.entries.iter().enumerate() {
        if entry.value.is_empty() {
            let path = path.item("entries", index).field("value");
            return Err(path.error("is required: a bucket for each value that comes is not supported"));
        }
        entries.push((entry.key.clone(), entry.value.clone()));
    }
    let path = path.field("token_bucket");
    let bucket = token_bucket(&path, message.token_bucket.as_ref().ok_or_else(|| path.missing())?)?;
    Ok(Descriptor { entries, bucket })
}

fn token_bucket(path: &Path, message: &ProtoBucket) -> Result<TokenBucket, ConfigError> {
    let interval = value::maybe_duration(&path.field("fill_interval"), message.fill_interval.as_ref())?;
    let interval = interval.ok_or_else(|| path.field("fill_interval").missing())?;
    if interval < SHORTEST_FILL {
        return Err(path.field("fill_interval").error("must be at least 0.05s"));
    }
    let per_fill = value::number(message.tokens_per_fill.as_ref(), 1);
    for (name, number) in [("max_tokens", message.max_tokens), ("tokens_per_fill", per_fill)] {
        if number == 0 {
            return Err(path.field(name).error("must be at least 1"));
        }
    }
    TokenBucket::new(message.max_tokens, per_fill, interval, Instant::now())
        .ok_or_else(|| path.error("would take more than a hundred years to fill"))
}
