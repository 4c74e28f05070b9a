//! Compiling `HTTPFault`.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
        http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
    },
};

use super::{Abort, AbortStatus, COUNTERS, Delay, Fault, Faults};
use crate::{
    config::{
        ConfigError, Path, matcher,
        runtime::{ABORTED_SHARE, DELAYED_SHARE},
        unsupported, value,
    },
    filter::Kind,
    runtime::Share,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: MESSAGE,
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<HttpFault>(config))?;
        let base = Arc::new(faults(path, &message)?);
        Ok(Box::new(Fault { base, stats: inputs.counters(&COUNTERS) }))
    },
    of_route: Some((MESSAGE, |path, config, _| {
        let message = value::unpacked(path, any::unpack::<HttpFault>(config))?;
        Ok(Arc::new(faults(path, &message)?))
    })),
};

const MESSAGE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

fn faults(path: &Path, message: &HttpFault) -> Result<Faults, ConfigError> {
    // Statistics by caller are not kept. Of the values with runtime keys only the shares follow them.
    unsupported!(path, message; upstream_cluster, max_active_faults, response_rate_limit, filter_metadata);
    let headers = message.headers.iter().enumerate();
    Ok(Faults {
        delay: message
            .delay
            .as_ref()
            .map(|delay| {
                self::delay(&path.field("delay"), delay, key(&message.delay_percent_runtime, DELAYED_SHARE))
            })
            .transpose()?,
        abort: message
            .abort
            .as_ref()
            .map(|abort| {
                self::abort(&path.field("abort"), abort, key(&message.abort_percent_runtime, ABORTED_SHARE))
            })
            .transpose()?,
        headers: headers
            .map(|(index, header)| matcher::header(&path.item("headers", index), header))
            .collect::<Result<_, _>>()?,
        nodes: message.downstream_nodes.clone(),
    })
}

/// The runtime key of a share.
fn key<'k>(configured: &'k str, default: &'k str) -> &'k str {
    if configured.is_empty() { default } else { configured }
}

fn delay(path: &Path, message: &FaultDelay, key: &str) -> Result<Delay, ConfigError> {
    let fixed =
        match message.fault_delay_secifier.as_ref().ok_or_else(|| path.field("fixed_delay").missing())? {
            FaultDelaySecifier::FixedDelay(delay) => {
                let path = path.field("fixed_delay");
                let delay = value::duration(&path, delay)?;
                if delay.is_zero() {
                    return Err(path.error("must be greater than 0"));
                }
                Some(delay)
            }
            FaultDelaySecifier::HeaderDelay(_) => None,
        };
    let share = value::share(&path.field("percentage"), message.percentage.as_ref())?;
    Ok(Delay { fixed, share: Share::new(key, share) })
}

fn abort(path: &Path, message: &FaultAbort, key: &str) -> Result<Abort, ConfigError> {
    let status = match message.error_type.as_ref().ok_or_else(|| path.field("http_status").missing())? {
        ErrorType::HttpStatus(status) => {
            AbortStatus::Http(value::status(&path.field("http_status"), *status)?)
        }
        ErrorType::GrpcStatus(status) => AbortStatus::Grpc(
            u8::try_from(*status).map_err(|_| path.field("grpc_status").error("must be at most 255"))?,
        ),
        ErrorType::HeaderAbort(_) => AbortStatus::Asked,
    };
    Ok(Abort {
        status,
        share: Share::new(key, value::share(&path.field("percentage"), message.percentage.as_ref())?),
        body: Some(message.response_body.clone().into_bytes()).filter(|body| !body.is_empty()),
    })
}
