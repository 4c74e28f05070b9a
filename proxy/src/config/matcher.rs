//! Compiling conditions.

use weft_xds::pb::envoy::{
    config::route::v3::{
        HeaderMatcher, QueryParameterMatcher, RouteMatch as ProtoMatch, header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
    },
    r#type::{
        matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
        v3::fractional_percent::DenominatorType,
    },
};

use super::{ConfigError, Path, unsupported};
use crate::route::matcher::{
    HeaderCondition, HeaderMatch, PathMatch, QueryMatch, RouteMatch, TextMatch, TextPattern,
};

/// Largest compiled expression: a bound on memory, not on taste.
const REGEX_SIZE: usize = 1024 * 1024;

pub(super) fn route_match(path: &Path, message: &ProtoMatch) -> Result<RouteMatch, ConfigError> {
    unsupported!(path, message; cookies, tls_context, dynamic_metadata, filter_state);
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
        PathSpecifier::ConnectMatcher(_) => return Err(path.field("connect_matcher").unsupported()),
        PathSpecifier::PathMatchPolicy(_) => return Err(path.field("path_match_policy").unsupported()),
    };
    let headers = message
        .headers
        .iter()
        .enumerate()
        .map(|(index, matcher)| header(&path.item("headers", index), matcher))
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
            unsupported!(path, fraction; runtime_key);
            let value =
                fraction.default_value.as_ref().ok_or_else(|| path.field("default_value").missing())?;
            let scale = match DenominatorType::try_from(value.denominator) {
                Ok(DenominatorType::Hundred) => 10_000,
                Ok(DenominatorType::TenThousand) => 100,
                Ok(DenominatorType::Million) => 1,
                Err(_) => return Err(path.field("default_value.denominator").error("is not a known value")),
            };
            Some(value.numerator.saturating_mul(scale))
        }
    };
    Ok(RouteMatch { path: path_match, headers, query, grpc: message.grpc.is_some(), fraction })
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

fn header(path: &Path, message: &HeaderMatcher) -> Result<HeaderMatch, ConfigError> {
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

fn query(path: &Path, message: &QueryParameterMatcher) -> Result<QueryMatch, ConfigError> {
    let value = match &message.query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(path.field("present_match").unsupported());
        }
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            Some(text_match(&path.field("string_match"), matcher)?)
        }
    };
    Ok(QueryMatch { name: message.name.clone().into_bytes(), value })
}

fn text_match(path: &Path, message: &StringMatcher) -> Result<TextMatch, ConfigError> {
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
