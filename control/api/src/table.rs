//! Server-side printing: what `kubectl get` shows.

mod duration;
mod node;
mod pod;
mod rows;
mod workload;

pub use duration::human_duration;
pub use pod::pod_status;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::text_at;
use crate::registry::Resource;

/// Name, JSON type and priority of a column; priority 1 shows under `-o wide` only.
type Column = (&'static str, &'static str, i32);

const NAME: Column = ("Name", "string", 0);
const AGE: Column = ("Age", "string", 0);
const CONTAINERS: Column = ("Containers", "string", 1);
const IMAGES: Column = ("Images", "string", 1);
const SELECTOR: Column = ("Selector", "string", 1);

/// The column definitions of a kind.
pub fn columns(res: &Resource) -> Vec<Value> {
    layout(res)
        .iter()
        .map(|(name, json_type, priority)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({
                "name": name, "type": json_type, "format": format, "description": describe(name), "priority": priority,
            })
        })
        .collect()
}

/// The cells of one object, in the order of [`columns`].
pub fn cells(res: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let printer = Printer { object, now };
    match (res.group, res.kind) {
        ("", "Pod") => printer.pod(),
        ("", "Service") => printer.service(),
        ("", "Node") => printer.node(),
        ("", "Namespace") => printer.namespace(),
        ("", "ConfigMap") => printer.config_map(),
        ("", "Secret") => printer.secret(),
        ("", "ServiceAccount") => printer.service_account(),
        ("" | "events.k8s.io", "Event") => printer.event(res),
        ("apps", "Deployment") => printer.deployment(),
        ("apps", "ReplicaSet") => printer.replica_set(),
        ("batch", "Job") => printer.job(),
        ("coordination.k8s.io", "Lease") => printer.lease(),
        ("discovery.k8s.io", "EndpointSlice") => printer.endpoint_slice(),
        _ => vec![printer.name(), printer.age()],
    }
}

fn layout(res: &Resource) -> &'static [Column] {
    match (res.group, res.kind) {
        ("", "Pod") => &[
            NAME,
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            AGE,
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        ("", "Service") => &[
            NAME,
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            AGE,
            SELECTOR,
        ],
        ("", "Node") => &[
            NAME,
            ("Status", "string", 0),
            ("Roles", "string", 0),
            AGE,
            ("Version", "string", 0),
            ("Internal-IP", "string", 1),
            ("External-IP", "string", 1),
            ("OS-Image", "string", 1),
            ("Kernel-Version", "string", 1),
            ("Container-Runtime", "string", 1),
        ],
        ("", "Namespace") => &[NAME, ("Status", "string", 0), AGE],
        ("", "ConfigMap") => &[NAME, ("Data", "string", 0), AGE],
        ("", "Secret") => &[NAME, ("Type", "string", 0), ("Data", "string", 0), AGE],
        ("", "ServiceAccount") => &[NAME, ("Secrets", "string", 0), AGE],
        ("" | "events.k8s.io", "Event") => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Subobject", "string", 1),
            ("Source", "string", 1),
            ("Message", "string", 0),
            ("First Seen", "string", 1),
            ("Count", "string", 1),
            ("Name", "string", 1),
        ],
        ("apps", "Deployment") => &[
            NAME,
            ("Ready", "string", 0),
            ("Up-to-date", "string", 0),
            ("Available", "string", 0),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("apps", "ReplicaSet") => &[
            NAME,
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("batch", "Job") => &[
            NAME,
            ("Status", "string", 0),
            ("Completions", "string", 0),
            ("Duration", "string", 0),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("coordination.k8s.io", "Lease") => &[NAME, ("Holder", "string", 0), AGE],
        ("discovery.k8s.io", "EndpointSlice") => {
            &[NAME, ("AddressType", "string", 0), ("Ports", "string", 0), ("Endpoints", "string", 0), AGE]
        }
        _ => &[NAME, AGE],
    }
}

fn describe(column: &str) -> &'static str {
    match column {
        "Name" => "Name must be unique within a namespace.",
        "Age" => "Time since the object was created.",
        "Ready" => "How many of the wanted ones are ready.",
        "Status" => "The aggregate status.",
        "Selector" => "Labels of the pods that belong to it.",
        _ => "",
    }
}

/// One object being printed at one moment.
struct Printer<'a> {
    object: &'a Value,
    now: Timestamp,
}

// === impl Printer ===

impl Printer<'_> {
    fn name(&self) -> Value {
        text_at(self.object, "/metadata/name").into()
    }

    fn age(&self) -> Value {
        self.since(self.object.pointer("/metadata/creationTimestamp")).into()
    }

    /// Time passed since a moment that the object names.
    fn since(&self, moment: Option<&Value>) -> String {
        match timestamp(moment) {
            Some(moment) => human_duration(self.now.duration_since(moment)),
            None => "<unknown>".to_owned(),
        }
    }
}

fn timestamp(moment: Option<&Value>) -> Option<Timestamp> {
    moment?.as_str()?.parse().ok()
}

/// The text, or `<none>` if there is none.
fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

#[cfg(test)]
mod tests;
