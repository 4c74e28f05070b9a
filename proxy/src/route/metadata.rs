//! Conditions on what filters said about a request.

use serde_json::Value;

use super::matcher::TextMatch;
use crate::http::metadata::{Found, Metadata};

/// A condition on one value.
#[derive(Debug)]
pub(crate) struct MetadataMatch {
    /// Who says it.
    pub(crate) namespace: String,
    /// At least one key.
    pub(crate) path: Vec<String>,
    pub(crate) value: ValueMatch,
    pub(crate) invert: bool,
}

#[derive(Debug)]
pub(crate) enum ValueMatch {
    Null,
    Number(f64),
    /// From the first to before the second.
    Range(f64, f64),
    Text(TextMatch),
    Bool(bool),
    Present(bool),
    /// A list, one of which.
    OneOf(Box<Self>),
    Any(Vec<Self>),
}

// === impl MetadataMatch ===

impl MetadataMatch {
    pub(crate) fn matches(&self, metadata: &Metadata) -> bool {
        let found = match metadata.find(&self.namespace, &self.path) {
            Some(Found::One(value)) => Some(value),
            _ => None,
        };
        self.value.matches(found) != self.invert
    }
}

impl ValueMatch {
    fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Any(some), value) => some.iter().any(|matcher| matcher.matches(value)),
            (Self::Present(present), value) => value.is_some() == *present,
            (Self::Null, Some(Value::Null)) => true,
            (Self::Number(number), Some(value)) => value.as_f64() == Some(*number),
            (Self::Range(start, end), Some(value)) => {
                value.as_f64().is_some_and(|number| (*start..*end).contains(&number))
            }
            (Self::Text(matcher), Some(Value::String(text))) => matcher.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(Value::Bool(value))) => value == wanted,
            (Self::OneOf(matcher), Some(Value::Array(values))) => {
                values.iter().any(|value| matcher.matches(Some(value)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::matcher::TextPattern;

    #[test]
    fn each_kind_of_value_has_its_condition() {
        let mut metadata = Metadata::default();
        let fields = json!({"n": 5, "t": "text", "b": true, "l": [1, "text"], "z": null, "o": {"k": 1}});
        metadata.merge("ns", fields.as_object().expect("an object"));
        let text = |text: &str| {
            let pattern = TextPattern::Exact(text.as_bytes().to_vec());
            ValueMatch::Text(TextMatch { pattern, ignore_case: false })
        };
        let holds = |path: &str, value: ValueMatch| {
            let path = path.split('.').map(str::to_owned).collect();
            MetadataMatch { namespace: "ns".to_owned(), path, value, invert: false }.matches(&metadata)
        };
        assert!(holds("n", ValueMatch::Number(5.0)) && !holds("n", ValueMatch::Number(6.0)));
        assert!(holds("n", ValueMatch::Range(5.0, 6.0)) && !holds("n", ValueMatch::Range(4.0, 5.0)));
        assert!(holds("t", text("text")) && !holds("n", text("5")));
        assert!(holds("b", ValueMatch::Bool(true)) && !holds("b", ValueMatch::Bool(false)));
        assert!(holds("z", ValueMatch::Null) && !holds("y", ValueMatch::Null));
        assert!(holds("z", ValueMatch::Present(true)) && holds("y", ValueMatch::Present(false)));
        assert!(holds("l", ValueMatch::OneOf(Box::new(text("text")))));
        assert!(!holds("t", ValueMatch::OneOf(Box::new(text("text")))));
        assert!(holds("o.k", ValueMatch::Any(vec![ValueMatch::Null, ValueMatch::Number(1.0)])));
        let value = ValueMatch::Present(true);
        let inverted =
            MetadataMatch { namespace: "other".to_owned(), path: vec!["n".to_owned()], value, invert: true };
        assert!(inverted.matches(&metadata));
    }
}
