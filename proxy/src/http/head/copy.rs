//! Copies of heads, and ways back.

use super::{Field, Head, Method, Seen, Span};

/// A head as it was: its text only grows, so that where everything is in it is enough to go back.
pub(crate) struct Before {
    fields: Vec<Field>,
    seen: Seen,
    method: Method,
    method_text: Span,
    target: Span,
    authority: Span,
}

// === impl Head ===

impl Head {
    /// The head as it is now, for [`Self::restore`]; nothing of it may be reset until then.
    pub(crate) fn remember(&self) -> Before {
        Before {
            fields: self.fields.clone(),
            seen: self.seen,
            method: self.method,
            method_text: self.method_text,
            target: self.target,
            authority: self.authority,
        }
    }

    /// Makes all that was changed since undone.
    pub(crate) fn restore(&mut self, before: Before) {
        self.fields = before.fields;
        self.seen = before.seen;
        self.method = before.method;
        self.method_text = before.method_text;
        self.target = before.target;
        self.authority = before.authority;
    }

    /// The same head once more, with a life of its own.
    pub(crate) fn duplicate(&self) -> Self {
        Self { text: self.text.clone(), fields: self.fields.clone(), ..*self }
    }

    /// The bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.text.len() + self.fields.len() * size_of::<Field>()
    }
}
