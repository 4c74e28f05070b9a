//! Changes that the configuration makes to header fields.

use std::sync::Arc;

use crate::http::head::Head;

/// Changes of all levels that apply to a message, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mutations(pub(crate) Vec<Arc<Mutation>>);

/// The changes of one level: first the removals, then the additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mutation {
    pub(crate) remove: Vec<Vec<u8>>,
    pub(crate) add: Vec<Addition>,
}

/// One field to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) how: Append,
}

/// What becomes of fields of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Append {
    /// They stay beside the new one.
    Always,
    /// They stay and nothing is added.
    IfAbsent,
    /// They are replaced.
    Overwrite,
    /// They are replaced; without any, nothing is added.
    OverwriteIfPresent,
}

impl Mutations {
    pub(crate) fn apply(&self, head: &mut Head) {
        for level in &self.0 {
            for name in &level.remove {
                head.remove(name);
            }
            for addition in &level.add {
                let present = head.get(&addition.name).is_some();
                match addition.how {
                    Append::Always => head.append(&addition.name, &addition.value),
                    Append::IfAbsent if present => {}
                    Append::OverwriteIfPresent if !present => {}
                    Append::IfAbsent | Append::Overwrite | Append::OverwriteIfPresent => {
                        head.set(&addition.name, &addition.value);
                    }
                }
            }
        }
    }
}
