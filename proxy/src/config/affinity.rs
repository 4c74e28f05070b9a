//! Compiling hash policies of routes.

use weft_xds::pb::envoy::config::route::v3::route_action::{
    HashPolicy,
    hash_policy::{Cookie as ProtoCookie, Header, PolicySpecifier},
};

use super::{ConfigError, Path, matcher, route, value};
use crate::route::affinity::{Affinity, By, Cookie};

/// Compiles what affinity goes by, of a message with `hash_policy`.
pub(super) fn compile(path: &Path, policies: &[HashPolicy]) -> Result<Box<[Affinity]>, ConfigError> {
    policies
        .iter()
        .enumerate()
        .map(|(index, policy)| {
            let path = path.item("hash_policy", index);
            let specifier = policy.policy_specifier.as_ref().ok_or_else(|| path.field("header").missing())?;
            Ok(Affinity { by: by(&path, specifier)?, terminal: policy.terminal })
        })
        .collect()
}

fn by(path: &Path, specifier: &PolicySpecifier) -> Result<By, ConfigError> {
    match specifier {
        PolicySpecifier::Header(message) => header(&path.field("header"), message),
        PolicySpecifier::Cookie(message) => cookie(&path.field("cookie"), message).map(By::Cookie),
        PolicySpecifier::ConnectionProperties(properties) => {
            if properties.source_ip {
                Ok(By::SourceIp)
            } else {
                Err(path.field("connection_properties.source_ip").error("nothing else is supported"))
            }
        }
        PolicySpecifier::QueryParameter(parameter) if parameter.name.is_empty() => {
            Err(path.field("query_parameter.name").missing())
        }
        PolicySpecifier::QueryParameter(parameter) => Ok(By::Query(parameter.name.clone().into_bytes())),
        PolicySpecifier::FilterState(_) => Err(path.field("filter_state").unsupported()),
    }
}

fn header(path: &Path, message: &Header) -> Result<By, ConfigError> {
    if message.header_name.is_empty() {
        return Err(path.field("header_name").missing());
    }
    let rewrite = match &message.regex_rewrite {
        None => None,
        Some(rewrite) => {
            let path = path.field("regex_rewrite");
            let pattern = rewrite.pattern.as_ref().ok_or_else(|| path.field("pattern").missing())?;
            let pattern = matcher::regex_anywhere(&path.field("pattern"), pattern)?;
            Some((pattern, route::substitution(rewrite.substitution.as_bytes())))
        }
    };
    Ok(By::Header { name: message.header_name.to_ascii_lowercase().into_bytes(), rewrite })
}

fn cookie(path: &Path, message: &ProtoCookie) -> Result<Cookie, ConfigError> {
    // What would end the attribute or the field.
    let text = |path: Path, text: &str| {
        if text.bytes().any(|byte| byte < b' ' || byte == b';' || byte == 0x7f) {
            return Err(path.error("contains a character that no cookie may have"));
        }
        Ok(text.to_owned())
    };
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let attributes = message
        .attributes
        .iter()
        .enumerate()
        .map(|(index, attribute)| {
            let path = path.item("attributes", index);
            Ok((text(path.field("name"), &attribute.name)?, text(path.field("value"), &attribute.value)?))
        })
        .collect::<Result<_, _>>()?;
    Ok(Cookie {
        name: text(path.field("name"), &message.name)?.into_bytes(),
        ttl: value::maybe_duration(&path.field("ttl"), message.ttl.as_ref())?,
        path: text(path.field("path"), &message.path)?,
        attributes,
    })
}
