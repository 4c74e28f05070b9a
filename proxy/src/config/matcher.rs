//! Compiling conditions.

use weft_xds::{
    any,
    pb::envoy::{
        config::core::v3::TypedExtensionConfig,
        config::route::v3::{
            CookieMatcher, HeaderMatcher, QueryParameterMatcher, RouteMatch as ProtoMatch,
            header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
            route_match::PathSpecifier,
        },
        extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
};

use super::{ConfigError, Path, unsupported, value};
use crate::route::{
    cookies::CookieMatch,
    matcher::{
        HeaderCondition, HeaderMatch, PathMatch, QueryCondition, QueryMatch, RouteMatch, TextMatch,
        TextPattern,
    },
    template,
};

/// Largest compiled expression: a bound on memory, not on taste.
const REGEX_SIZE: usize = 1024 * 1024;

pub(crate) fn route_match(path: &Path, message: &ProtoMatch) -> Result<RouteMatch, ConfigError> {
    unsupported!(path, message; dynamic_metadata, filter_state);
    let ignore_case = message.case_sensitive.as_ref().is_some_and(|sensitive| !sensitive.value);
    let text = |text: &String| text.clone().into_bytes();
    let path_match = match message.path_specifier.as_ref().ok_or_else(|| path.field("prefix").missing())? {
        PathSpecifier::Prefix(prefix) => PathMatch::Prefix { text: text(prefix), ignore_case },
        PathSpecifier::Path(exact) => PathMatch::Exact { text: text(exact), ignore_case },
        PathSpecifier::PathSeparatedPrefix(prefix) => {
            PathMatch::SeparatedPrefix { text: text(prefix), ignore_case }
        }
        PathSpecifier::SafeRegex(expression) => {
            PathMatch::Regex(regex(&path.field("safe_regex"), expression)?)
        }
        PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
        PathSpecifier::PathMatchPolicy(policy) => {
            PathMatch::Regex(template(&path.field("path_match_policy"), policy)?)
        }
    };
    let headers = message
        .headers
        .iter()
        .enumerate()
        .map(|(index, matcher)| header(&path.item("headers", index), matcher))
        .collect::<Result<_, _>>()?;
    let cookies = message
        .cookies
        .iter()
        .enumerate()
        .map(|(index, matcher)| cookie(&path.item("cookies", index), matcher))
        .collect::<Result<_, _>>()?;
    let query = message
        .query_parameters
        .iter()
        .enumerate()
        .map(|(index, matcher)| query(&path.item("query_parameters", index), matcher))
        .collect::<Result<_, _>>()?;
    let fraction = match &message.runtime_fraction {
        None => None,
        Some(fraction) => {
            let path = path.field("runtime_fraction");
            if fraction.default_value.is_none() {
                return Err(path.field("default_value").missing());
            }
            Some(value::runtime_share(&path, Some(fraction), value::ALL)?)
        }
    };
    let certificate = match &message.tls_context {
        None => None,
        Some(tls) => {
            // Who shows a certificate that is not valid gets no connection, so the two are the same.
            let wanted = [tls.presented, tls.validated].map(|wanted| wanted.map(|wanted| wanted.value));
            match wanted {
                [Some(presented), Some(validated)] if presented != validated => {
                    return Err(path.field("tls_context").error("presented and validated differ; none can"));
                }
                [presented, validated] => presented.or(validated),
            }
        }
    };
    let grpc = message.grpc.is_some();
    Ok(RouteMatch { path: path_match, headers, cookies, query, grpc, certificate, fraction })
}

/// The expression for a path template.
fn template(path: &Path, policy: &TypedExtensionConfig) -> Result<regex::bytes::Regex, ConfigError> {
    let path = path.field("typed_config");
    let config = policy.typed_config.as_ref().ok_or_else(|| path.missing())?;
    let message = value::unpacked(&path, any::unpack::<UriTemplateMatchConfig>(config))?;
    let path = path.field("path_template");
    compile(&path, &template::expression(&message.path_template).map_err(|reason| path.error(reason))?)
}

pub(super) fn regex(path: &Path, matcher: &RegexMatcher) -> Result<regex::bytes::Regex, ConfigError> {
    // Envoy's expressions must match the whole text.
    compile(&path.field("regex"), &format!("^(?:{})$", matcher.regex))
}

/// An expression that may match anywhere, for rewriting.
pub(super) fn regex_anywhere(
    path: &Path,
    matcher: &RegexMatcher,
) -> Result<regex::bytes::Regex, ConfigError> {
    compile(&path.field("regex"), &matcher.regex)
}

fn compile(path: &Path, text: &str) -> Result<regex::bytes::Regex, ConfigError> {
    regex::bytes::RegexBuilder::new(text)
        .size_limit(REGEX_SIZE)
        .build()
        .map_err(|error| path.error(format!("is not a valid expression: {error}")))
}

pub(crate) fn header(path: &Path, message: &HeaderMatcher) -> Result<HeaderMatch, ConfigError> {
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let pattern = |pattern| HeaderCondition::Text(TextMatch { pattern, ignore_case: false });
    let bytes = |text: &String| text.clone().into_bytes();
    #[expect(deprecated, reason = "older control planes still send these")]
    let condition = match &message.header_match_specifier {
        None => HeaderCondition::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderCondition::Present(*present),
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderCondition::Text(text_match(&path.field("string_match"), matcher)?)
        }
        Some(HeaderMatchSpecifier::RangeMatch(range)) => {
            HeaderCondition::Range { start: range.start, end: range.end }
        }
        Some(HeaderMatchSpecifier::ExactMatch(text)) => pattern(TextPattern::Exact(bytes(text))),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => pattern(TextPattern::Prefix(bytes(text))),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => pattern(TextPattern::Suffix(bytes(text))),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => pattern(TextPattern::Contains(bytes(text))),
        Some(HeaderMatchSpecifier::SafeRegexMatch(expression)) => {
            pattern(TextPattern::Regex(regex(&path.field("safe_regex_match"), expression)?))
        }
    };
    Ok(HeaderMatch {
        name: message.name.to_ascii_lowercase().into_bytes(),
        condition,
        invert: message.invert_match,
        missing_is_empty: message.treat_missing_header_as_empty,
    })
}

fn cookie(path: &Path, message: &CookieMatcher) -> Result<CookieMatch, ConfigError> {
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let path = path.field("string_match");
    let value = text_match(&path, message.string_match.as_ref().ok_or_else(|| path.missing())?)?;
    Ok(CookieMatch { name: message.name.clone().into_bytes(), value, invert: message.invert_match })
}

pub(super) fn query(path: &Path, message: &QueryParameterMatcher) -> Result<QueryMatch, ConfigError> {
    let value = match &message.query_parameter_match_specifier {
        None => QueryCondition::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryCondition::Present(*present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            QueryCondition::Text(text_match(&path.field("string_match"), matcher)?)
        }
    };
    Ok(QueryMatch { name: message.name.clone().into_bytes(), value })
}

pub(crate) fn text_match(path: &Path, message: &StringMatcher) -> Result<TextMatch, ConfigError> {
    let bytes = |text: &String| text.clone().into_bytes();
    let pattern = match message.match_pattern.as_ref().ok_or_else(|| path.field("exact").missing())? {
        MatchPattern::Exact(text) => TextPattern::Exact(bytes(text)),
        MatchPattern::Prefix(text) => TextPattern::Prefix(bytes(text)),
        MatchPattern::Suffix(text) => TextPattern::Suffix(bytes(text)),
        MatchPattern::Contains(text) => TextPattern::Contains(bytes(text)),
        MatchPattern::SafeRegex(expression) => {
            TextPattern::Regex(regex(&path.field("safe_regex"), expression)?)
        }
        MatchPattern::Custom(_) => return Err(path.field("custom").unsupported()),
    };
    Ok(TextMatch { pattern, ignore_case: message.ignore_case })
}
