//! The kinds with little to show.

use serde_json::Value;

use super::{Printer, timestamp};
use crate::access::{entries, int, int_at, items, text, text_at};
use crate::registry::Resource;

/// Lists are cut after this many items.
const MAX_LISTED: usize = 3;

impl Printer<'_> {
    pub(super) fn namespace(&self) -> Vec<Value> {
        vec![self.name(), text_at(self.object, "/status/phase").into(), self.age()]
    }

    pub(super) fn config_map(&self) -> Vec<Value> {
        let count = entries(self.object, "data").count() + entries(self.object, "binaryData").count();
        vec![self.name(), count.into(), self.age()]
    }

    pub(super) fn secret(&self) -> Vec<Value> {
        let count = entries(self.object, "data").count();
        vec![self.name(), text(self.object, "type").into(), count.into(), self.age()]
    }

    pub(super) fn service_account(&self) -> Vec<Value> {
        vec![self.name(), items(self.object, "secrets").len().into(), self.age()]
    }

    pub(super) fn lease(&self) -> Vec<Value> {
        vec![self.name(), text_at(self.object, "/spec/holderIdentity").into(), self.age()]
    }

    pub(super) fn endpoint_slice(&self) -> Vec<Value> {
        let ports = items(self.object, "ports")
            .iter()
            .map(|port| int(port, "port").map_or_else(|| "*".to_owned(), |number| number.to_string()));
        let addresses = items(self.object, "endpoints")
            .iter()
            .flat_map(|endpoint| items(endpoint, "addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned));
        vec![
            self.name(),
            text(self.object, "addressType").into(),
            listed(ports).into(),
            listed(addresses).into(),
            self.age(),
        ]
    }

    pub(super) fn event(&self, res: &Resource) -> Vec<Value> {
        // The older fields have other names in the newer group.
        let (about, note, first, last, count_field, source, controller) = if res.group.is_empty() {
            (
                "involvedObject",
                "message",
                "firstTimestamp",
                "lastTimestamp",
                "count",
                "source",
                "reportingComponent",
            )
        } else {
            (
                "regarding",
                "note",
                "deprecatedFirstTimestamp",
                "deprecatedLastTimestamp",
                "deprecatedCount",
                "deprecatedSource",
                "reportingController",
            )
        };
        let event = self.object;
        let first_seen = match timestamp(event.get(first)) {
            Some(_) => self.since(event.get(first)),
            None => self.since(event.get("eventTime")),
        };
        let mut last_seen = match timestamp(event.get(last)) {
            Some(_) => self.since(event.get(last)),
            None => first_seen.clone(),
        };
        let mut count = int(event, count_field).filter(|c| *c != 0).unwrap_or(1);
        if let Some(series) = event.get("series").filter(|s| s.is_object()) {
            last_seen = self.since(series.get("lastObservedTime"));
            count = int_at(series, "/count").unwrap_or(0);
        }
        let target = event.get(about).unwrap_or(&Value::Null);
        let kind = text(target, "kind").to_lowercase();
        let object = match text(target, "name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        let origin = event.get(source).unwrap_or(&Value::Null);
        let (component, instance) = match text(origin, "component") {
            "" => (text(event, controller), text(event, "reportingInstance")),
            component => (component, text(origin, "host")),
        };
        let origin =
            if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
        vec![
            last_seen.into(),
            text(event, "type").into(),
            text(event, "reason").into(),
            object.into(),
            text(target, "fieldPath").into(),
            origin.into(),
            text(event, note).trim().into(),
            first_seen.into(),
            count.into(),
            self.name(),
        ]
    }
}

/// The first items, and how many more there are.
fn listed(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    if all.is_empty() {
        return "<unset>".to_owned();
    }
    let more = all.len().saturating_sub(MAX_LISTED);
    all.truncate(MAX_LISTED);
    if more > 0 { format!("{} + {more} more...", all.join(",")) } else { all.join(",") }
}
