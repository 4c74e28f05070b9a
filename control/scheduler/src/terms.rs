//! Conditions that pods put on nodes and on other pods, compiled for matching.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::core::{Expression, ParseExpressionError, Selector, SelectorExt as _};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// One alternative of a node affinity: all its requirements must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeTerm {
    expressions: Vec<NodeSelectorRequirement>,
    fields: Vec<NodeSelectorRequirement>,
}

/// Which other pods a (anti-)affinity speaks of, and over which kind of place.
#[derive(Debug, Clone, PartialEq)]
pub struct PodTerm {
    /// Node label whose equal values make nodes one place.
    pub topology_key: String,
    /// `None` matches no pod.
    selector: Option<Selector>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
}

// === impl NodeTerm ===

impl NodeTerm {
    /// Takes over the requirements of the API object.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        Self {
            expressions: term.match_expressions.clone().unwrap_or_default(),
            fields: term.match_fields.clone().unwrap_or_default(),
        }
    }

    /// Whether the node of this name and these labels meets every requirement; a term without any matches no node.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.expressions.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key)))
            && self.fields.iter().all(|requirement| {
                // The only field that may be selected on.
                requirement.key == "metadata.name" && holds(requirement, Some(&name.to_owned()))
            })
    }
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |with: fn(i64, i64) -> bool| {
        let number = value.and_then(|value| value.parse().ok());
        let bound = values.first().and_then(|bound| bound.parse().ok());
        number.zip(bound).is_some_and(|(number, bound)| with(number, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|number, bound| number > bound),
        "Lt" => compare(|number, bound| number < bound),
        _ => false,
    }
}

// === impl PodTerm ===

impl PodTerm {
    /// Compiles the term of a pod with these labels in this namespace.
    pub fn new(
        term: &PodAffinityTerm,
        namespace: &str,
        labels: &Labels,
    ) -> Result<Self, ParseExpressionError> {
        let mut selector = term.label_selector.as_ref().map(compile).transpose()?;
        if let Some(selector) = &mut selector {
            selector.extend(same_values(term.match_label_keys.as_deref(), labels, Expression::In));
            selector.extend(same_values(term.mismatch_label_keys.as_deref(), labels, Expression::NotIn));
        }
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let namespace_selector = term.namespace_selector.as_ref().map(compile).transpose()?;
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Ok(Self { topology_key: term.topology_key.clone(), selector, namespaces, namespace_selector })
    }

    /// Whether the term speaks of a pod with these labels in the namespace with these labels.
    pub fn matches(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: &Labels) -> bool {
        let in_namespace = self.namespaces.contains(namespace)
            || self
                .namespace_selector
                .as_ref()
                .zip(namespace_labels)
                .is_some_and(|(s, labels)| s.matches(labels));
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// A label selector ready to match.
pub fn compile(selector: &LabelSelector) -> Result<Selector, ParseExpressionError> {
    Selector::try_from(selector.clone())
}

/// Expressions that hold the values which `labels` have under `keys`; keys without a value add nothing.
pub fn same_values<'a>(
    keys: Option<&'a [String]>,
    labels: &'a Labels,
    expression: fn(String, BTreeSet<String>) -> Expression,
) -> impl Iterator<Item = Expression> + 'a {
    let keys = keys.unwrap_or_default().iter();
    keys.filter_map(move |key| labels.get(key).map(|value| expression(key.clone(), [value.clone()].into())))
}

/// Whether one of the tolerations covers the taint.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
            return false;
        }
        match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => {
                !key.is_empty()
                    && toleration.value.as_deref().unwrap_or_default()
                        == taint.value.as_deref().unwrap_or_default()
            }
            Some(_) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: "disks".to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|&value| value.to_owned()).collect()),
        }
    }

    #[test]
    fn node_terms_know_every_operator() {
        let labels = Labels::from([("disks".to_owned(), "4".to_owned())]);
        let cases = [
            ("In", vec!["4", "5"], true),
            ("NotIn", vec!["4"], false),
            ("Exists", vec![], true),
            ("DoesNotExist", vec![], false),
            ("Gt", vec!["3"], true),
            ("Lt", vec!["4"], false),
            ("Near", vec!["4"], false),
        ];
        for (operator, values, expected) in cases {
            let expressions = vec![requirement(operator, &values)];
            let term = NodeTerm { expressions, fields: vec![] };
            assert_eq!(term.matches("a", &labels), expected, "{operator} {values:?}");
        }
        assert!(!NodeTerm { expressions: vec![], fields: vec![] }.matches("a", &labels));
    }

    #[test]
    fn a_node_can_be_named_by_its_name_field() {
        let mut field = requirement("In", &["a"]);
        field.key = "metadata.name".to_owned();
        let term = NodeTerm { expressions: vec![], fields: vec![field] };
        assert!(term.matches("a", &Labels::new()) && !term.matches("b", &Labels::new()));
    }

    #[test]
    fn tolerations_match_as_kubernetes_defines() {
        let taint = Taint {
            key: "k".to_owned(),
            value: Some("v".to_owned()),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.to_owned()),
            operator: Some(operator.to_owned()),
            value: Some(value.to_owned()),
            effect: Some(effect.to_owned()),
            ..Default::default()
        };
        assert!(tolerated(&taint, &[toleration("", "Exists", "", "")]));
        assert!(tolerated(&taint, &[toleration("k", "Equal", "v", "NoSchedule")]));
        assert!(tolerated(&taint, &[toleration("k", "", "v", "")]));
        assert!(!tolerated(&taint, &[toleration("k", "Equal", "other", "")]));
        assert!(!tolerated(&taint, &[toleration("k", "Exists", "", "NoExecute")]));
        assert!(!tolerated(&taint, &[]));
    }
}
