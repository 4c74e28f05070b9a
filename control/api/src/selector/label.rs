//! Label selectors: `app=web,tier in (a, b),!canary`, and their form in objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::validate::{is_label_value, is_qualified_name};

/// A conjunction of requirements on labels. Without requirements it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    key: String,
    operator: Operator,
}

/// How a label is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// Present with one of the values.
    In(BTreeSet<String>),
    /// Absent or with none of the values.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, an integer and larger.
    GreaterThan(i64),
    /// Present, an integer and smaller.
    LessThan(i64),
}

/// Where labels come from.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

// === impl Labels ===

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Reads the text of a `labelSelector` parameter. Empty selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { rest: text, text }.selector()
    }

    /// Reads a `metav1.LabelSelector` object: `matchLabels` and `matchExpressions`.
    pub fn from_object(object: &Value) -> Result<Self, SelectorError> {
        let mut selector = match object.get("matchLabels") {
            Some(labels) => Self::from_map(labels)?,
            None => Self::default(),
        };
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            selector.requirements.push(expression_requirement(expression)?);
        }
        Ok(selector)
    }

    /// Reads a plain map of labels, as `spec.selector` of a Service is.
    pub fn from_map(labels: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in labels.as_object().into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| malformed("the value of a label must be a string"))?;
            requirements.push(Requirement::equals(key, value)?);
        }
        Ok(Self { requirements })
    }

    /// The single requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether something with these labels is selected.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        self.requirements.iter().all(|r| r.matches(labels.label(&r.key)))
    }

    /// Whether the object with these `metadata.labels` is selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        match object.pointer("/metadata/labels") {
            Some(labels) => self.matches(labels),
            None => self.matches(&None::<Value>),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

// === impl Requirement ===

impl Requirement {
    /// A checked requirement.
    pub fn new(key: &str, operator: Operator) -> Result<Self, SelectorError> {
        if !is_qualified_name(key) {
            return Err(malformed(format!("\"{key}\" is not a valid label key")));
        }
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            if values.is_empty() {
                return Err(malformed("for 'in', 'notin' operators, values set can't be empty"));
            }
            if let Some(value) = values.iter().find(|v| !is_label_value(v)) {
                return Err(malformed(format!("\"{value}\" is not a valid label value")));
            }
        }
        Ok(Self { key: key.to_owned(), operator })
    }

    /// The label that is compared.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    fn equals(key: &str, value: &str) -> Result<Self, SelectorError> {
        Self::new(key, Operator::In([value.to_owned()].into()))
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let join =
            |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", join(values)),
            Operator::In(values) => write!(f, "{key} in ({})", join(values)),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", join(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", join(values)),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Operator::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

fn malformed(message: impl Into<String>) -> SelectorError {
    SelectorError::Syntax(message.into())
}

fn expression_requirement(expression: &Value) -> Result<Requirement, SelectorError> {
    let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
    let values: BTreeSet<String> = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let bound = |values: &BTreeSet<String>| match values.iter().next().map(|v| v.parse()) {
        Some(Ok(bound)) if values.len() == 1 => Ok(bound),
        _ => Err(malformed("for 'Gt', 'Lt' operators, exactly one integer value is required")),
    };
    let operator = match text("operator") {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan(bound(&values)?),
        "Lt" => Operator::LessThan(bound(&values)?),
        other => return Err(malformed(format!("\"{other}\" is not a valid label selector operator"))),
    };
    Requirement::new(text("key"), operator)
}

/// A recursive-descent parser without recursion: the grammar is flat.
struct Parser<'a> {
    rest: &'a str,
    text: &'a str,
}

impl<'a> Parser<'a> {
    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(LabelSelector::default());
        }
        loop {
            requirements.push(self.requirement()?);
            self.skip_space();
            if self.rest.is_empty() {
                return Ok(LabelSelector { requirements });
            }
            if !self.take(",") {
                return Err(self.unexpected("',' or end of text"));
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take("!") {
            let key = self.word();
            return Requirement::new(key, Operator::DoesNotExist);
        }
        let key = self.word();
        if key.is_empty() {
            return Err(self.unexpected("a label key"));
        }
        let operator = if self.take("!=") {
            Operator::NotIn([self.word().to_owned()].into())
        } else if self.take("==") || self.take("=") {
            Operator::In([self.word().to_owned()].into())
        } else if self.take(">") {
            Operator::GreaterThan(self.integer()?)
        } else if self.take("<") {
            Operator::LessThan(self.integer()?)
        } else {
            match self.word() {
                "" => Operator::Exists,
                "in" => Operator::In(self.values()?),
                "notin" => Operator::NotIn(self.values()?),
                other => {
                    return Err(malformed(format!(
                        "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                    )));
                }
            }
        };
        Requirement::new(key, operator)
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.take("(") {
            return Err(self.unexpected("'('"));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.word().to_owned());
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.unexpected("',' or ')'"));
            }
        }
    }

    fn integer(&mut self) -> Result<i64, SelectorError> {
        let word = self.word();
        word.parse()
            .map_err(|_| malformed(format!("for 'Gt', 'Lt' operators, \"{word}\" must be an integer")))
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')' | '<' | '>'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn unexpected(&self, expected: &str) -> SelectorError {
        let at = self.text.len() - self.rest.len();
        malformed(format!("expected {expected} at position {at} of '{}'", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn equality_and_sets_select_as_in_kubernetes() {
        assert!(matches("app=web", json!({"app": "web"})));
        assert!(matches("app == web", json!({"app": "web"})));
        assert!(!matches("app=web", json!({})));
        assert!(matches("app!=web", json!({})));
        assert!(matches("app in (a, b),tier notin (x)", json!({"app": "b"})));
        assert!(!matches("app in (a,b)", json!({"app": "c"})));
        assert!(matches("app,!canary", json!({"app": ""})));
        assert!(!matches("!canary", json!({"canary": "1"})));
        assert!(matches("cpus > 3, cpus < 5", json!({"cpus": "4"})));
        assert!(matches("app=", json!({"app": ""})));
        assert!(matches("", json!({})));
        assert!(matches("in in (in)", json!({"in": "in"})));
    }

    #[test]
    fn malformed_selectors_are_rejected() {
        for text in [
            "=a", "a in", "a in (", "a in ()x", "a b", "a,,b", "a=b c", "a in (b", "a!b", "x/y/z=1", "a=%",
            ",",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn object_selectors_combine_labels_and_expressions() {
        let selector = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        assert_eq!(selector.to_string(), "app=web,tier in (a,b),!old");
        assert!(selector.matches_object(&json!({"metadata": {"labels": {"app": "web", "tier": "b"}}})));
        assert!(!selector.matches_object(&json!({"metadata": {}})));
        assert!(
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}))
                .is_err()
        );
        assert!(
            LabelSelector::from_object(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]}))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(text in "[a-c!=<>(), in0]{0,24}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
