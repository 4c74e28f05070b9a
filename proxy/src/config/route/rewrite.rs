//! What becomes of the path and the host of a request.

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            core::v3::TypedExtensionConfig,
            route::v3::{RouteAction, route_action::HostRewriteSpecifier},
        },
        extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig,
        r#type::matcher::v3::RegexMatchAndSubstitute,
    },
};

use crate::config::{ConfigError, Path, matcher, value};
use crate::route::{
    HostRewrite, PathRewrite,
    matcher::{PathMatch, RouteMatch},
    template,
};

pub(super) fn path(path: &Path, message: &RouteAction) -> Result<PathRewrite, ConfigError> {
    Ok(match (message.prefix_rewrite.as_str(), &message.regex_rewrite, message.path_rewrite.as_str()) {
        ("", None, "") => PathRewrite::Keep,
        (prefix, None, "") => PathRewrite::Prefix(rewrite_text(&path.field("prefix_rewrite"), prefix)?),
        ("", Some(rewrite), "") => {
            let (pattern, substitution) = regex_rewrite(&path.field("regex_rewrite"), rewrite)?;
            PathRewrite::Regex { pattern, substitution }
        }
        ("", None, text) => {
            PathRewrite::Text(value::formatted(&path.field("path_rewrite"), text.as_bytes())?)
        }
        _ => return Err(path.error("prefix_rewrite, regex_rewrite and path_rewrite exclude each other")),
    })
}

pub(super) fn host(path: &Path, message: &RouteAction) -> Result<HostRewrite, ConfigError> {
    Ok(match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            literal_host(&path.field("host_rewrite_literal"), host)?
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if !auto.value => HostRewrite::Keep,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => HostRewrite::Endpoint,
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            HostRewrite::Header(name.to_ascii_lowercase().into_bytes())
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => {
            let path = path.field("host_rewrite_path_regex");
            let pattern = rewrite.pattern.as_ref().ok_or_else(|| path.field("pattern").missing())?;
            let pattern = matcher::regex_anywhere(&path.field("pattern"), pattern)?;
            HostRewrite::Path { pattern, substitution: substitution(rewrite.substitution.as_bytes()) }
        }
        Some(HostRewriteSpecifier::HostRewrite(text)) => {
            HostRewrite::Text(value::formatted(&path.field("host_rewrite"), text.as_bytes())?)
        }
    })
}

/// The rewrite of a route's path by a template, whose variables are those of the route's match.
pub(super) fn template(
    path: &Path,
    action: &RouteAction,
    policy: &TypedExtensionConfig,
    matches: &RouteMatch,
) -> Result<PathRewrite, ConfigError> {
    let field = path.field("path_rewrite_policy");
    let PathMatch::Regex(pattern) = &matches.path else {
        return Err(field.error("needs a path_match_policy in the match"));
    };
    if !action.prefix_rewrite.is_empty() || action.regex_rewrite.is_some() || !action.path_rewrite.is_empty()
    {
        return Err(field.error("excludes prefix_rewrite, regex_rewrite and path_rewrite"));
    }
    let path = field.field("typed_config");
    let config = policy.typed_config.as_ref().ok_or_else(|| path.missing())?;
    let message = value::unpacked(&path, any::unpack::<UriTemplateRewriteConfig>(config))?;
    let path = path.field("path_template_rewrite");
    let text = rewrite_text(&path, &message.path_template_rewrite)?;
    let substitution = template::substitution(&String::from_utf8_lossy(&text), pattern)
        .map_err(|reason| path.error(reason))?;
    Ok(PathRewrite::Regex { pattern: pattern.clone(), substitution: substitution.into_bytes() })
}

/// What a regex rewrite looks for and what it puts in its place.
pub(super) fn regex_rewrite(
    path: &Path,
    message: &RegexMatchAndSubstitute,
) -> Result<(regex::bytes::Regex, Vec<u8>), ConfigError> {
    let pattern = message.pattern.as_ref().ok_or_else(|| path.field("pattern").missing())?;
    let text = rewrite_text(&path.field("substitution"), &message.substitution)?;
    Ok((matcher::regex_anywhere(&path.field("pattern"), pattern)?, substitution(&text)))
}

pub(super) fn literal_host(path: &Path, host: &str) -> Result<HostRewrite, ConfigError> {
    if !crate::http::h1::parse::is_authority(host.as_bytes()) {
        return Err(path.error(format!("{host:?} is not a host")));
    }
    Ok(HostRewrite::Literal(host.as_bytes().to_vec()))
}

/// Text that becomes part of a path: nothing that could end a request line.
pub(crate) fn rewrite_text(path: &Path, text: &str) -> Result<Vec<u8>, ConfigError> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err(path.error("contains a character that no path may have"));
    }
    Ok(text.as_bytes().to_vec())
}

/// RE2's `\1` as our expressions write it, `${1}`.
pub(in crate::config) fn substitution(text: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut bytes = text.iter().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(digit)) if digit.is_ascii_digit() => {
                result.extend_from_slice(&[b'$', b'{', **digit, b'}']);
                bytes.next();
            }
            (b'\\', Some(b'\\')) => {
                result.push(b'\\');
                bytes.next();
            }
            (b'$', _) => result.extend_from_slice(b"$$"),
            _ => result.push(*byte),
        }
    }
    result
}
