//! Objects that two API groups show in different forms.

use serde_json::Value;

use crate::registry::Resource;

/// Field names of an Event in events.k8s.io/v1 and in core/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// Turns an object as clients of `res` write it into the stored form, see [`crate::registry::storage_of`].
pub fn to_storage(res: &Resource, object: &mut Value) {
    if is_new_event(res) {
        convert_event(object, "v1", |(new, core)| (new, core));
    }
}

/// Turns a stored object into the form that clients of `res` read.
pub fn from_storage(res: &Resource, object: &mut Value) {
    if is_new_event(res) {
        convert_event(object, "events.k8s.io/v1", |(new, core)| (core, new));
    }
}

fn is_new_event(res: &Resource) -> bool {
    res.group == "events.k8s.io" && res.kind == "Event"
}

fn convert_event(
    object: &mut Value,
    api_version: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.insert("apiVersion".into(), api_version.into());
    for pair in EVENT_FIELDS {
        let (from, to) = direction(*pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use serde_json::json;

    #[test]
    fn events_survive_a_round_trip_through_storage() {
        let events = registry::find("events.k8s.io", "v1", "events").unwrap();
        let original = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "web"}, "note": "n",
            "reportingController": "c", "deprecatedCount": 2,
        });
        let mut object = original.clone();
        to_storage(events, &mut object);
        assert_eq!(object["involvedObject"]["name"], "web");
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(object["count"], 2);
        from_storage(events, &mut object);
        assert_eq!(object, original);
    }
}
