//! Runtime values: what operators change by key while everything else stays (Envoy's layered runtime).
//!
//! # Guarantees
//! * A later layer overrides an earlier one, key by key.
//! * Whoever asks sees all values as they were after one update; nobody who asks ever waits.
//! * What names a key needs to know nothing of layers: it asks when it must decide, so that a change of a value has no
//!   configuration compiled anew.

mod entry;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) use self::entry::Entry;
use crate::listener::limit::Gate;

/// Envoy's key for all connections of clients together.
pub(crate) const GLOBAL_CONNECTIONS: &str = "overload.global_downstream_max_connections";
/// Envoy's keys for the connections of one listener have its name in the middle.
pub(crate) const LISTENER_CONNECTIONS: (&str, &str) =
    ("envoy.resource_limits.listener.", ".connection_limit");

/// The values in force, and the layers that they come from.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Locked by who writes; canonical.
    layers: Mutex<Vec<Layer>>,
    current: ArcSwap<HashMap<String, Entry>>,
    gates: Gates,
}

/// Some values that belong together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// As the bootstrap calls it.
    pub(crate) name: String,
    /// What the resource is known by that fills it, if one does.
    pub(crate) key: Option<String>,
    pub(crate) values: BTreeMap<String, Entry>,
}

/// How many connections may be open, by runtime keys.
#[derive(Debug)]
struct Gates {
    global: Arc<Gate>,
    /// By the listener's name.
    listeners: Mutex<HashMap<String, Arc<Gate>>>,
}

/// A share of requests that a key can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    key: Option<Box<str>>,
    /// In millionths.
    default: u32,
}

/// A switch that a key can throw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    key: Option<Box<str>>,
    default: bool,
}

// === impl Runtime ===

impl Runtime {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let gates = Gates { global: Arc::new(Gate::new(u64::MAX)), listeners: Mutex::default() };
        let runtime = Self { layers: Mutex::new(layers), current: ArcSwap::default(), gates };
        runtime.publish(&runtime.layers.lock());
        runtime
    }

    /// Replaces what the resource of this key says, in whatever layers it fills.
    pub(crate) fn fill(&self, key: &str, values: &BTreeMap<String, Entry>) {
        let mut layers = self.layers.lock();
        for layer in layers.iter_mut().filter(|layer| layer.key.as_deref() == Some(key)) {
            layer.values.clone_from(values);
        }
        self.publish(&layers);
    }

    /// The limit for all listeners together.
    pub(crate) fn global_gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gates.global)
    }

    /// The limit for one listener.
    pub(crate) fn gate(&self, listener: &str) -> Arc<Gate> {
        // Under the lock of the layers, so that no update comes between the look at the values and the entry.
        let _layers = self.layers.lock();
        let mut gates = self.gates.listeners.lock();
        gates.retain(|name, gate| name == listener || Arc::strong_count(gate) > 1);
        let gate = gates
            .entry(listener.to_owned())
            .or_insert_with(|| Arc::new(Gate::new(limit(&self.current.load(), listener))));
        Arc::clone(gate)
    }

    /// A whole number, such as a weight.
    pub(crate) fn integer(&self, key: &str) -> Option<u64> {
        self.current.load().get(key)?.integer()
    }

    /// As Envoy's admin shows it.
    pub(crate) fn as_json(&self) -> Value {
        let layers = self.layers.lock();
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let mut keys: Vec<&String> = layers.iter().flat_map(|layer| layer.values.keys()).collect();
        keys.sort();
        keys.dedup();
        let entries: serde_json::Map<String, Value> = keys
            .into_iter()
            .map(|key| {
                let values: Vec<String> = layers
                    .iter()
                    .map(|layer| layer.values.get(key).map(Entry::to_string).unwrap_or_default())
                    .collect();
                let last = values.iter().rfind(|value| !value.is_empty()).cloned().unwrap_or_default();
                (key.clone(), json!({"layer_values": values, "final_value": last}))
            })
            .collect();
        json!({"layers": names, "entries": entries})
    }

    fn publish(&self, layers: &[Layer]) {
        let mut all = HashMap::new();
        for (key, entry) in layers.iter().flat_map(|layer| &layer.values) {
            all.insert(key.clone(), entry.clone());
        }
        self.gates.global.limit(all.get(GLOBAL_CONNECTIONS).and_then(Entry::integer).unwrap_or(u64::MAX));
        for (name, gate) in &*self.gates.listeners.lock() {
            gate.limit(limit(&all, name));
        }
        self.current.store(Arc::new(all));
    }
}

impl Default for Runtime {
    /// Without any layer.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

fn limit(values: &HashMap<String, Entry>, listener: &str) -> u64 {
    let key = [LISTENER_CONNECTIONS.0, listener, LISTENER_CONNECTIONS.1].concat();
    values.get(&key).and_then(Entry::integer).unwrap_or(u64::MAX)
}

// === impl Share ===

impl Share {
    /// So many millionths, unless the key says otherwise; an empty one says nothing.
    pub(crate) fn new(key: &str, default: u32) -> Self {
        Self { key: Some(key.into()).filter(|_| !key.is_empty()), default }
    }

    /// In millionths, as it is now.
    pub(crate) fn of(&self, runtime: &Runtime) -> u32 {
        let Some(key) = &self.key else { return self.default };
        runtime.current.load().get(&**key).and_then(Entry::share).unwrap_or(self.default)
    }
}

// === impl Flag ===

impl Flag {
    /// This, unless the key says otherwise; an empty one says nothing.
    pub(crate) fn new(key: &str, default: bool) -> Self {
        Self { key: Some(key.into()).filter(|_| !key.is_empty()), default }
    }

    /// As it is now.
    pub(crate) fn of(&self, runtime: &Runtime) -> bool {
        let Some(key) = &self.key else { return self.default };
        runtime.current.load().get(&**key).and_then(Entry::flag).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, key: Option<&str>, values: &Value) -> Layer {
        let values = Entry::all(values.as_object().expect("an object").clone()).expect("values");
        Layer { name: name.into(), key: key.map(str::to_owned), values }
    }

    #[test]
    fn a_later_layer_overrides_an_earlier_one_and_gives_way_when_it_is_emptied() {
        let filled = json!({"share": {"numerator": 5, "denominator": "MILLION"}, "on": false});
        let runtime = Runtime::new(vec![
            layer("base", None, &json!({"share": 50, "weight": 7, "on": true})),
            layer("live", Some("r"), &json!({})),
        ]);
        let (share, flag) = (Share::new("share", 1), Flag::new("on", false));
        assert_eq!((share.of(&runtime), flag.of(&runtime)), (500_000, true));
        runtime.fill("other", &Entry::all(filled.as_object().expect("an object").clone()).expect("values"));
        assert_eq!((share.of(&runtime), flag.of(&runtime)), (500_000, true));
        runtime.fill("r", &Entry::all(filled.as_object().expect("an object").clone()).expect("values"));
        assert_eq!((share.of(&runtime), flag.of(&runtime)), (5, false));
        assert_eq!(runtime.integer("weight"), Some(7));
        let shown = runtime.as_json();
        assert_eq!(shown["layers"], json!(["base", "live"]));
        assert_eq!(
            shown["entries"]["on"],
            json!({"layer_values": ["true", "false"], "final_value": "false"})
        );
        assert_eq!(shown["entries"]["weight"], json!({"layer_values": ["7", ""], "final_value": "7"}));
        runtime.fill("r", &BTreeMap::new());
        assert_eq!((share.of(&runtime), flag.of(&runtime)), (500_000, true));
        assert_eq!(Share::new("", 3).of(&runtime), 3);
    }

    #[test]
    fn limits_of_connections_follow_their_keys() {
        let runtime = Runtime::new(vec![layer("live", Some("r"), &json!({GLOBAL_CONNECTIONS: 1}))]);
        let (global, own) = (runtime.global_gate(), runtime.gate("web"));
        let first = global.enter().expect("room for one");
        assert!(global.enter().is_none());
        let _mine = own.enter().expect("no limit yet");
        let values = json!({"envoy.resource_limits": {"listener.web.connection_limit": 1}});
        runtime.fill("r", &Entry::all(values.as_object().expect("an object").clone()).expect("values"));
        assert!(global.enter().is_some() && own.enter().is_none(), "what was let in before counts");
        assert!(runtime.gate("web").enter().is_none() && runtime.gate("other").enter().is_some());
        drop(first);
    }
}
