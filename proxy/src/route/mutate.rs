//! Changes that the configuration makes to header fields.

use std::{borrow::Cow, sync::Arc};

use crate::{
    access_log::{Entry, format::Format},
    http::{
        exchange::{Context, Record},
        head::Head,
    },
};

/// Changes of all levels that apply to a message, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mutations(pub(crate) Vec<Arc<Mutation>>);

/// The changes of one level: first the removals, then the additions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mutation {
    pub(crate) remove: Vec<Vec<u8>>,
    pub(crate) add: Vec<Addition>,
    /// Whether an addition could see what another one did, which it must not.
    entangled: bool,
}

/// One field to add.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Addition {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Value,
    pub(crate) how: Append,
    /// Whether it is added even if its value is empty.
    pub(crate) keep_empty: bool,
}

/// Text that may depend on the exchange.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Literal(Vec<u8>),
    Format(Box<Format>),
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

/// What formatted values are made from, beside the message that is changed.
pub(crate) struct Scene<'s> {
    pub(crate) cx: &'s Context,
    pub(crate) record: &'s Record,
    /// `None` if it is the request that is changed.
    pub(crate) request: Option<&'s Head>,
}

// === impl Mutations ===

impl Mutations {
    pub(crate) fn apply(&self, head: &mut Head, scene: &Scene<'_>) {
        for level in &self.0 {
            level.apply(head, scene);
        }
    }
}

// === impl Mutation ===

impl Mutation {
    pub(crate) fn new(remove: Vec<Vec<u8>>, add: Vec<Addition>) -> Self {
        let formatted = add.iter().any(|addition| matches!(addition.value, Value::Format(_)));
        let mut names: Vec<&[u8]> = add.iter().map(|addition| addition.name.as_slice()).collect();
        names.sort_unstable();
        let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
        Self { entangled: formatted || twice, remove, add }
    }

    pub(crate) fn apply(&self, head: &mut Head, scene: &Scene<'_>) {
        for name in &self.remove {
            head.remove(name);
        }
        if self.entangled {
            self.add_at_once(head, scene);
        } else {
            for addition in &self.add {
                addition.apply(head, scene);
            }
        }
    }

    /// As in Envoy: every value and every condition is of the message as it was before the first addition, and what
    /// replaces fields goes before what is added to them.
    fn add_at_once(&self, head: &mut Head, scene: &Scene<'_>) {
        let wanted = self.add.iter().filter(|addition| addition.is_for(head));
        let wanted = wanted.filter_map(|addition| Some((addition, addition.text(head, scene)?.into_owned())));
        let wanted: Vec<_> = wanted.collect();
        let replaces =
            |addition: &Addition| matches!(addition.how, Append::Overwrite | Append::OverwriteIfPresent);
        for (addition, text) in wanted.iter().filter(|(addition, _)| replaces(addition)) {
            head.set(&addition.name, text);
        }
        for (addition, text) in wanted.iter().filter(|(addition, _)| !replaces(addition)) {
            head.append(&addition.name, text);
        }
    }
}

// === impl Addition ===

impl Addition {
    /// A value that is the same for every exchange.
    pub(crate) fn literal(name: Vec<u8>, value: Vec<u8>, how: Append) -> Self {
        Self { name, value: Value::Literal(value), how, keep_empty: true }
    }

    pub(crate) fn apply(&self, head: &mut Head, scene: &Scene<'_>) {
        if !self.is_for(head) {
            return;
        }
        match &self.value {
            Value::Literal(value) if value.is_empty() && !self.keep_empty => {}
            Value::Literal(value) => self.write(head, value),
            Value::Format(_) => {
                if let Some(value) = self.text(head, scene).map(Cow::into_owned) {
                    self.write(head, &value);
                }
            }
        }
    }

    fn is_for(&self, head: &Head) -> bool {
        match self.how {
            Append::Always | Append::Overwrite => true,
            Append::IfAbsent => head.get(&self.name).is_none(),
            Append::OverwriteIfPresent => head.get(&self.name).is_some(),
        }
    }

    /// The value, unless it is empty and that means none.
    fn text<'t>(&'t self, head: &Head, scene: &Scene<'_>) -> Option<Cow<'t, [u8]>> {
        Some(self.value.text(head, scene)).filter(|text| self.keep_empty || !text.is_empty())
    }

    fn write(&self, head: &mut Head, value: &[u8]) {
        match self.how {
            Append::Always => head.append(&self.name, value),
            Append::IfAbsent | Append::Overwrite | Append::OverwriteIfPresent => head.set(&self.name, value),
        }
    }
}

// === impl Value ===

impl Value {
    /// What is known of it without an exchange.
    pub(crate) fn known(&self) -> &[u8] {
        match self {
            Self::Literal(text) => text,
            Self::Format(_) => b"",
        }
    }

    /// For `head`, the message that is changed.
    pub(crate) fn text<'t>(&'t self, head: &Head, scene: &Scene<'_>) -> Cow<'t, [u8]> {
        match self {
            Self::Literal(text) => Cow::Borrowed(text),
            Self::Format(format) => {
                let mut text = Vec::new();
                format.write(&scene.entry(head), &mut text);
                Cow::Owned(text)
            }
        }
    }
}

// === impl Scene ===

impl<'s> Scene<'s> {
    /// In which a request is changed.
    pub(crate) fn of_request(cx: &'s Context, record: &'s Record) -> Self {
        Self { cx, record, request: None }
    }

    /// In which the response to this request is changed.
    pub(crate) fn of_response(cx: &'s Context, record: &'s Record, request: &'s Head) -> Self {
        Self { cx, record, request: Some(request) }
    }

    fn entry<'e>(&'e self, head: &'e Head) -> Entry<'e> {
        let (request, response) = match self.request {
            Some(request) => (request, Some(head)),
            None => (head, None),
        };
        Entry {
            request: Some(request),
            response,
            status: response.map_or(0, |response| response.status),
            record: self.record,
            duration: self.record.started.map(|started| started.elapsed()).unwrap_or_default(),
            peer: self.cx.peer,
            local: self.cx.local,
            connection: self.cx.id,
            tls: self.cx.tls.as_deref(),
        }
    }
}
