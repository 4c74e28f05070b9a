//! Compiling conditions on metadata.

use weft_xds::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher, ValueMatcher, double_matcher, list_matcher, metadata_matcher::path_segment::Segment,
    value_matcher::MatchPattern,
};

use super::{ConfigError, Path, matcher};
use crate::route::metadata::{MetadataMatch, ValueMatch};

/// How deep conditions may be nested.
const MAX_DEPTH: usize = 16;

pub(crate) fn matcher(path: &Path, message: &MetadataMatcher) -> Result<MetadataMatch, ConfigError> {
    if message.filter.is_empty() {
        return Err(path.field("filter").missing());
    }
    if message.path.is_empty() {
        return Err(path.field("path").missing());
    }
    let keys = message.path.iter().enumerate().map(|(index, segment)| match &segment.segment {
        Some(Segment::Key(key)) if !key.is_empty() => Ok(key.clone()),
        _ => Err(path.item("path", index).field("key").missing()),
    });
    let value = path.field("value");
    Ok(MetadataMatch {
        namespace: message.filter.clone(),
        path: keys.collect::<Result<_, _>>()?,
        value: self::value(&value, message.value.as_ref().ok_or_else(|| value.missing())?, 0)?,
        invert: message.invert,
    })
}

fn value(path: &Path, message: &ValueMatcher, depth: usize) -> Result<ValueMatch, ConfigError> {
    if depth > MAX_DEPTH {
        return Err(path.error(format!("is nested deeper than {MAX_DEPTH}")));
    }
    Ok(match message.match_pattern.as_ref().ok_or_else(|| path.missing())? {
        MatchPattern::NullMatch(_) => ValueMatch::Null,
        MatchPattern::DoubleMatch(double) => match &double.match_pattern {
            Some(double_matcher::MatchPattern::Exact(number)) => ValueMatch::Number(*number),
            Some(double_matcher::MatchPattern::Range(range)) => ValueMatch::Range(range.start, range.end),
            None => return Err(path.field("double_match").missing()),
        },
        MatchPattern::StringMatch(text) => {
            ValueMatch::Text(matcher::text_match(&path.field("string_match"), text)?)
        }
        MatchPattern::BoolMatch(wanted) => ValueMatch::Bool(*wanted),
        MatchPattern::PresentMatch(present) => ValueMatch::Present(*present),
        MatchPattern::ListMatch(list) => {
            let path = path.field("list_match");
            match &list.match_pattern {
                Some(list_matcher::MatchPattern::OneOf(one)) => {
                    ValueMatch::OneOf(Box::new(value(&path.field("one_of"), one, depth + 1)?))
                }
                None => return Err(path.missing()),
            }
        }
        MatchPattern::OrMatch(or) => {
            let path = path.field("or_match");
            if or.value_matchers.len() < 2 {
                return Err(path.field("value_matchers").error("must be at least two"));
            }
            let matchers = or.value_matchers.iter().enumerate();
            let matchers =
                matchers.map(|(index, one)| value(&path.item("value_matchers", index), one, depth + 1));
            ValueMatch::Any(matchers.collect::<Result<_, _>>()?)
        }
    })
}
