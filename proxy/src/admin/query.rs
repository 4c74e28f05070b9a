//! Query parameters.

use percent_encoding::percent_decode_str;
use regex::Regex;

/// The parameters of a request, in their order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether it was given, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// An expression, of bounded size because anybody who reaches the port may send it.
    pub(super) fn regex(&self, name: &str, whole: bool) -> Result<Option<Regex>, String> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let expression = if whole { format!("^(?:{text})$") } else { text.to_owned() };
        regex::RegexBuilder::new(&expression)
            .size_limit(1024 * 1024)
            .build()
            .map(Some)
            .map_err(|error| format!("Invalid regex: {error}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::parse("usedonly&filter=a%2Bb%5B&x=1=2&");
        assert!(query.has("usedonly") && !query.has("other"));
        assert_eq!(query.get("filter"), Some("a+b["));
        assert_eq!(query.get("x"), Some("1=2"));
        assert!(query.regex("filter", false).is_err());
        assert!(query.regex("none", false).expect("nothing").is_none());
    }
}
