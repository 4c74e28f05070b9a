//! Which proxies a request is about.

use crate::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};

/// Any of them is enough; without any, every proxy is meant.
pub(super) struct Matchers<'a>(Vec<Id<'a>>);

/// On the id of a node; `None` is any id.
struct Id<'a>(Option<(&'a MatchPattern, bool)>);

// === impl Matchers ===

impl<'a> Matchers<'a> {
    /// An error names the field that is not supported.
    pub(super) fn new(matchers: &'a [NodeMatcher]) -> Result<Self, String> {
        let read = |(index, matcher): (usize, &'a NodeMatcher)| {
            let path = format!("node_matchers[{index}]");
            if !matcher.node_metadatas.is_empty() {
                return Err(format!("{path}.node_metadatas: not supported"));
            }
            let Some(StringMatcher { match_pattern, ignore_case }) = &matcher.node_id else {
                return Ok(Id(None));
            };
            match match_pattern {
                None => Err(format!("{path}.node_id: has no pattern")),
                Some(MatchPattern::SafeRegex(_)) => Err(format!("{path}.node_id.safe_regex: not supported")),
                Some(MatchPattern::Custom(_)) => Err(format!("{path}.node_id.custom: not supported")),
                Some(pattern) => Ok(Id(Some((pattern, *ignore_case)))),
            }
        };
        Ok(Self(matchers.iter().enumerate().map(read).collect::<Result<_, _>>()?))
    }

    pub(super) fn matches(&self, id: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|matcher| matcher.matches(id))
    }
}

// === impl Id ===

impl Id<'_> {
    fn matches(&self, id: &str) -> bool {
        let Some((pattern, ignore_case)) = self.0 else { return true };
        let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let id = fold(id);
        match pattern {
            MatchPattern::Exact(text) => id == fold(text),
            MatchPattern::Prefix(text) => id.starts_with(&fold(text)),
            MatchPattern::Suffix(text) => id.ends_with(&fold(text)),
            MatchPattern::Contains(text) => id.contains(&fold(text)),
            // Refused above.
            MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::r#type::matcher::v3::{RegexMatcher, StructMatcher};

    fn on(pattern: MatchPattern, ignore_case: bool) -> NodeMatcher {
        let node_id = Some(StringMatcher { ignore_case, match_pattern: Some(pattern) });
        NodeMatcher { node_id, ..NodeMatcher::default() }
    }

    #[test]
    fn one_of_several_is_enough_and_none_means_all() {
        let matches = |matchers: &[NodeMatcher], id: &str| Matchers::new(matchers).unwrap().matches(id);
        assert!(matches(&[], "a"));
        assert!(matches(&[NodeMatcher::default()], "a"));
        let exact = on(MatchPattern::Exact("gateway~~N1".into()), true);
        let prefix = on(MatchPattern::Prefix("sidecar~default~".into()), false);
        let both = [exact, prefix];
        assert!(matches(&both, "gateway~~n1") && matches(&both, "sidecar~default~web-1"));
        assert!(!matches(&both, "gateway~~n10") && !matches(&both, "Sidecar~default~web-1"));
        assert!(matches(&[on(MatchPattern::Suffix("-1".into()), false)], "web-1"));
        assert!(!matches(&[on(MatchPattern::Contains("x".into()), false)], "web-1"));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |matcher: NodeMatcher| match Matchers::new(&[NodeMatcher::default(), matcher]) {
            Ok(_) => panic!("it was taken"),
            Err(message) => message,
        };
        let regex = on(MatchPattern::SafeRegex(RegexMatcher::default()), false);
        assert_eq!(refused(regex), "node_matchers[1].node_id.safe_regex: not supported");
        let metadata = NodeMatcher { node_metadatas: vec![StructMatcher::default()], ..Default::default() };
        assert_eq!(refused(metadata), "node_matchers[1].node_metadatas: not supported");
        let empty = NodeMatcher { node_id: Some(StringMatcher::default()), ..Default::default() };
        assert_eq!(refused(empty), "node_matchers[1].node_id: has no pattern");
    }
}
