//! Compiling `rate_limits`: what describes requests to rate limiters.

use weft_xds::pb::{
    envoy::config::route::v3::{
        RateLimit as Proto, RouteAction,
        rate_limit::{Action as ProtoAction, action::ActionSpecifier},
    },
    google::protobuf::UInt32Value,
};

use super::{ConfigError, Path, matcher, unsupported};
use crate::route::rate_limit::{Action, RateLimit, RateLimits};

/// Compiles the field `rate_limits` of the message at `path`.
pub(crate) fn compile(path: &Path, limits: &[Proto]) -> Result<Vec<RateLimit>, ConfigError> {
    let limits = limits.iter().enumerate();
    limits.map(|(index, limit)| rate_limit(&path.item("rate_limits", index), limit)).collect()
}

/// What a route says itself.
pub(crate) fn of_route(path: &Path, action: &RouteAction) -> Result<RateLimits, ConfigError> {
    #[expect(deprecated, reason = "still what many configurations say")]
    let include = action.include_vh_rate_limits;
    Ok(RateLimits {
        own: compile(path, &action.rate_limits)?,
        include_host: include.is_some_and(|include| include.value),
        ..RateLimits::default()
    })
}

fn rate_limit(path: &Path, message: &Proto) -> Result<RateLimit, ConfigError> {
    // `disable_key` names a runtime key, and layers that set any are refused.
    unsupported!(path, message; limit, hits_addend, apply_on_stream_done, x_ratelimit_option);
    let actions = message.actions.iter().enumerate();
    Ok(RateLimit {
        stage: super::value::number(message.stage.as_ref(), 0),
        actions: actions
            .map(|(index, message)| action(&path.item("actions", index), message))
            .collect::<Result<_, _>>()?,
    })
}

fn action(path: &Path, message: &ProtoAction) -> Result<Action, ConfigError> {
    let key = |given: &str, default: &str| if given.is_empty() { default } else { given }.to_owned();
    Ok(match message.action_specifier.as_ref().ok_or_else(|| path.missing())? {
        ActionSpecifier::GenericKey(message) => {
            let path = path.field("generic_key");
            unsupported!(path, message; default_value);
            Action::Generic {
                key: key(&message.descriptor_key, "generic_key"),
                value: constant(&path, &message.descriptor_value)?,
            }
        }
        ActionSpecifier::RequestHeaders(message) => Action::Header {
            name: message.header_name.to_ascii_lowercase().into_bytes(),
            key: message.descriptor_key.clone(),
            skip_if_absent: message.skip_if_absent,
        },
        ActionSpecifier::RemoteAddress(_) => Action::RemoteAddress,
        ActionSpecifier::HeaderValueMatch(message) => {
            let path = path.field("header_value_match");
            unsupported!(path, message; default_value);
            let headers = message.headers.iter().enumerate();
            Action::HeaderMatch {
                key: key(&message.descriptor_key, "header_match"),
                value: constant(&path, &message.descriptor_value)?,
                expect: message.expect_match.is_none_or(|expect| expect.value),
                headers: headers
                    .map(|(index, header)| matcher::header(&path.item("headers", index), header))
                    .collect::<Result<_, _>>()?,
            }
        }
        ActionSpecifier::SourceCluster(_) => Action::SourceCluster,
        ActionSpecifier::DestinationCluster(_) => Action::DestinationCluster,
        ActionSpecifier::MaskedRemoteAddress(message) => {
            let path = path.field("masked_remote_address");
            let bits = |name: &str, value: Option<&UInt32Value>, longest: u8| {
                let bits = super::value::number(value, u32::from(longest));
                u8::try_from(bits)
                    .ok()
                    .filter(|bits| *bits <= longest)
                    .ok_or_else(|| path.field(name).error(format!("must be at most {longest}")))
            };
            Action::Network {
                v4: bits("v4_prefix_mask_len", message.v4_prefix_mask_len.as_ref(), 32)?,
                v6: bits("v6_prefix_mask_len", message.v6_prefix_mask_len.as_ref(), 128)?,
            }
        }
        ActionSpecifier::QueryParameters(message) => Action::Query {
            name: message.query_parameter_name.clone().into_bytes(),
            key: message.descriptor_key.clone(),
            skip_if_absent: message.skip_if_absent,
        },
        ActionSpecifier::QueryParameterValueMatch(message) => {
            let path = path.field("query_parameter_value_match");
            unsupported!(path, message; default_value);
            let parameters = message.query_parameters.iter().enumerate();
            Action::QueryMatch {
                key: key(&message.descriptor_key, "query_match"),
                value: constant(&path, &message.descriptor_value)?,
                expect: message.expect_match.is_none_or(|expect| expect.value),
                parameters: parameters
                    .map(|(index, query)| matcher::query(&path.item("query_parameters", index), query))
                    .collect::<Result<_, _>>()?,
            }
        }
        _ => return Err(path.error("this kind of action is not supported")),
    })
}

/// A value that stands for itself.
fn constant(path: &Path, value: &str) -> Result<String, ConfigError> {
    let path = path.field("descriptor_value");
    if value.is_empty() {
        return Err(path.missing());
    }
    if value.contains('%') {
        return Err(path.error("format operators (%…%) are not supported here"));
    }
    Ok(value.to_owned())
}
