//! Protobuf tags and list semantics of every type that requests carry, from the generated table `fields.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

/// One type.
#[derive(Debug, Default)]
pub(crate) struct Message {
    fields: Vec<Field>,
}

/// One field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    /// Protobuf field number.
    pub(crate) tag: u32,
    /// JSON name, or `None` if the fields of the inner message stand in its place.
    pub(crate) name: Option<&'static str>,
    /// How many values the field has.
    pub(crate) arity: Arity,
    /// Type of each value.
    pub(crate) kind: Kind,
    /// Whether an explicit zero differs from an absent value.
    pub(crate) keeps_zero: bool,
    /// Whether a strategic merge patch merges the list instead of replacing it.
    pub(crate) merges: bool,
    /// Texts for `x-kubernetes-*` extensions and for merging.
    pub(crate) patch_strategy: Option<&'static str>,
    /// Field that identifies the items of a merged list.
    pub(crate) merge_key: Option<&'static str>,
    /// `atomic`, `set` or `map`.
    pub(crate) list_type: Option<&'static str>,
    /// Comma-separated fields that identify the items of a `map` list.
    pub(crate) list_map_keys: Option<&'static str>,
}

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    List,
    /// Text keys to values.
    Map,
}

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    Int32,
    Int64,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// JSON inside protobuf bytes.
    Raw,
    /// Go's duration text.
    Duration,
    Quantity,
    IntOrString,
    /// A message that only wraps a list of texts.
    Texts,
    /// Another type of the table.
    Message(&'static str),
}

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| read(include_str!("fields.txt")));

/// A type by its name without the leading `io.k8s.`.
pub(crate) fn message(definition: &str) -> Option<&'static Message> {
    MESSAGES.get(definition)
}

/// A type by the name of its schema definition.
pub(crate) fn definition(name: &str) -> Option<&'static Message> {
    message(name.strip_prefix("io.k8s.")?)
}

// === impl Message ===

impl Message {
    /// The field with this protobuf number.
    pub(crate) fn by_tag(&self, tag: u32) -> Option<&Field> {
        self.fields.iter().find(|f| f.tag == tag)
    }

    /// The field with this JSON name, inlined ones included.
    pub(crate) fn by_name(&'static self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == Some(name)).or_else(|| {
            self.fields.iter().filter(|f| f.name.is_none()).find_map(|f| f.message()?.by_name(name))
        })
    }
}

// === impl Field ===

impl Field {
    /// The type of the value, where it is one of the table.
    pub(crate) fn message(&self) -> Option<&'static Message> {
        match self.kind {
            Kind::Message(definition) => message(definition),
            _ => None,
        }
    }
}

/// The table is part of the program and checked by a test, so a line that breaks the grammar is left out.
fn read(text: &'static str) -> HashMap<&'static str, Message> {
    let mut messages: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.strip_prefix('>') {
            Some(definition) => {
                current = definition;
                messages.entry(definition).or_default();
            }
            None => {
                if let (Some(field), Some(message)) = (read_field(line), messages.get_mut(current)) {
                    message.fields.push(field);
                }
            }
        }
    }
    messages
}

fn read_field(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let tag = words.next()?.parse().ok()?;
    let name = words.next().map(|name| (name != "-").then_some(name))?;
    let kind = words.next()?;
    let (arity, kind) = if let Some(kind) = kind.strip_prefix("[]") {
        (Arity::List, kind)
    } else if let Some(kind) = kind.strip_prefix("{}") {
        (Arity::Map, kind)
    } else {
        (Arity::One, kind)
    };
    let kind = match kind {
        "string" => Kind::Text,
        "bool" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "raw" => Kind::Raw,
        "duration" => Kind::Duration,
        "quantity" => Kind::Quantity,
        "intstr" => Kind::IntOrString,
        "strings" => Kind::Texts,
        definition if definition.contains('.') => Kind::Message(definition),
        _ => return None,
    };
    let mut field = Field {
        tag,
        name,
        arity,
        kind,
        keeps_zero: false,
        merges: false,
        patch_strategy: None,
        merge_key: None,
        list_type: None,
        list_map_keys: None,
    };
    for flag in words {
        match flag.split_once('=') {
            None => field.keeps_zero = true,
            Some(("patchStrategy", strategy)) => {
                field.patch_strategy = Some(strategy);
                field.merges = strategy.split(',').any(|s| s == "merge");
            }
            Some(("patchMergeKey", key)) => field.merge_key = Some(key),
            Some(("listType", list_type)) => field.list_type = Some(list_type),
            Some(("listMapKey", keys)) => field.list_map_keys = Some(keys),
            Some(_) => return None,
        }
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        for line in include_str!("fields.txt").lines().filter(|l| !l.starts_with(['#', '>'])) {
            assert!(read_field(line).is_some(), "{line}");
        }
    }

    #[test]
    fn every_mentioned_type_is_in_the_table() {
        for message in MESSAGES.values() {
            for field in &message.fields {
                assert!(!matches!(field.kind, Kind::Message(_)) || field.message().is_some(), "{field:?}");
                assert!(field.name.is_some() || field.message().is_some());
            }
        }
    }

    #[test]
    fn inlined_fields_are_found_by_name() {
        let probe = message("api.core.v1.Probe").unwrap();
        assert!(probe.by_name("httpGet").is_some());
        assert!(probe.by_tag(1).unwrap().name.is_none());
        let pod = definition("io.k8s.api.core.v1.PodSpec").unwrap();
        assert_eq!(pod.by_name("containers").unwrap().merge_key, Some("name"));
    }
}
