//! Field selectors: `status.phase!=Running,spec.nodeName=a`.

use serde_json::Value;

use super::SelectorError;
use crate::registry::Resource;

/// A conjunction of comparisons of fields with values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

// === impl FieldSelector ===

impl FieldSelector {
    /// Reads the text of a `fieldSelector` parameter. Empty selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let invalid =
                || SelectorError::Syntax(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let at = part.find(['=', '!']).ok_or_else(invalid)?;
            let (field, rest) = part.split_at(at);
            let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
                (false, value)
            } else if let Some(value) = rest.strip_prefix("==") {
                (true, value)
            } else if let Some(value) = rest.strip_prefix('=') {
                (true, value)
            } else {
                return Err(invalid());
            };
            let value = unescape(value).ok_or_else(invalid)?;
            terms.push(Term { field: field.trim().to_owned(), equal, value });
        }
        Ok(Self { terms })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Fails if the kind cannot be selected by one of the fields.
    pub fn check(&self, res: &Resource) -> Result<(), SelectorError> {
        match self.terms.iter().find(|t| !supports(res, &t.field)) {
            Some(term) => Err(SelectorError::UnsupportedField(term.field.clone())),
            None => Ok(()),
        }
    }

    /// The value that `field` must have, if the selector demands exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether the object is selected. Fields that the kind does not support have no value.
    pub fn matches(&self, res: &Resource, object: &Value) -> bool {
        self.terms.iter().all(|t| (field_text(res, object, &t.field) == t.value) == t.equal)
    }
}

fn supports(res: &Resource, field: &str) -> bool {
    match field {
        "metadata.name" => true,
        "metadata.namespace" => res.namespaced,
        _ => selectable(res).contains(&field),
    }
}

fn selectable(res: &Resource) -> &'static [&'static str] {
    match (res.group, res.plural) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        _ => &[],
    }
}

/// The text that a field is compared as. Absent fields read as their zero value, as they do in Kubernetes' typed objects.
fn field_text(res: &Resource, object: &Value, field: &str) -> String {
    if !supports(res, field) {
        return String::new();
    }
    let pointer = match field {
        "source" => "/source/component".to_owned(),
        "status.podIPs" => "/status/podIP".to_owned(),
        "status.successful" => "/status/succeeded".to_owned(),
        _ => format!("/{}", field.replace('.', "/")),
    };
    match object.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => match field {
            "spec.hostNetwork" | "spec.unschedulable" => "false".into(),
            "status.replicas" | "status.successful" => "0".into(),
            _ => String::new(),
        },
    }
}

/// Splits at commas that no backslash escapes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Resolves `\\`, `\,` and `\=`; anything else after a backslash, and a bare `,` or `=`, is malformed.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' | ',' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn pods_are_selected_by_node_and_phase() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let selector = FieldSelector::parse("spec.nodeName=a,status.phase!=Succeeded").unwrap();
        selector.check(pods).unwrap();
        assert!(selector.matches(pods, &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}})));
        assert!(
            !selector.matches(pods, &json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}}))
        );
        assert!(!selector.matches(pods, &json!({"spec": {}})));
        assert_eq!(selector.exact("spec.nodeName"), Some("a"));
        assert_eq!(selector.exact("status.phase"), None);
        let unscheduled = FieldSelector::parse("spec.nodeName=").unwrap();
        assert!(unscheduled.matches(pods, &json!({})));
    }

    #[test]
    fn unsupported_fields_are_named() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let error = FieldSelector::parse("spec.foo==1").unwrap().check(pods).unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: spec.foo");
    }

    #[test]
    fn values_may_be_escaped_and_malformed_terms_are_rejected() {
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a,b=c"));
        for text in ["a", "a!b", "a=b=c", r"a=\x"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let pods = registry::find("", "v1", "pods").unwrap();
            if let Ok(selector) = FieldSelector::parse(&text) {
                let _ = selector.check(pods);
                selector.matches(pods, &json!({}));
            }
        }
    }
}
