//! Label selectors of API objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};

/// Whether a selector, which must not be empty and must be readable, matches the labels.
pub(crate) fn matches(selector: LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Ok(selector) = Selector::try_from(selector) else { return false };
    !selector.selects_all() && selector.matches(labels.unwrap_or(&BTreeMap::new()))
}
