//! `%DYNAMIC_METADATA(…)%`.

use serde_json::Value as Json;

use super::operator::{Value, bracketed};
use crate::http::metadata::{Found, Metadata};

/// Which value, and how much of it if it is a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    namespace: String,
    path: Vec<String>,
    length: Option<usize>,
}

// === impl Place ===

impl Place {
    /// Reads `NAMESPACE:KEY:KEY):Z`.
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let (inside, length) = bracketed(argument)?;
        let mut parts = inside.split(':').map(str::to_owned);
        let namespace = parts.next().filter(|name| !name.is_empty());
        let namespace = namespace.ok_or_else(|| format!("({argument} names nothing"))?;
        Ok(Self { namespace, path: parts.collect(), length })
    }

    pub(super) fn value<'m>(&self, metadata: &'m Metadata) -> Value<'m> {
        match metadata.find(&self.namespace, &self.path) {
            None | Some(Found::One(Json::Null)) => Value::Missing,
            Some(Found::All(fields)) => Value::Object(fields),
            Some(Found::One(Json::String(text))) => {
                let bytes = text.as_bytes();
                Value::Bytes(&bytes[..self.length.unwrap_or(bytes.len()).min(bytes.len())])
            }
            Some(Found::One(value)) => Value::Json(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_written_plainly_and_cut_and_all_else_as_json() {
        let mut metadata = Metadata::default();
        let fields = json!({"t": "text", "n": 1, "o": {"k": [true]}});
        metadata.merge("a.b", fields.as_object().expect("an object"));
        for (argument, written) in [
            ("a.b:t)", Some("text")),
            ("a.b:t):2", Some("te")),
            ("a.b:n)", Some("1")),
            ("a.b:o)", Some("{\"k\":[true]}")),
            ("a.b:o:k)", Some("[true]")),
            ("a.b)", Some("{\"n\":1,\"o\":{\"k\":[true]},\"t\":\"text\"}")),
            ("a.b:x)", None),
            ("c:t)", None),
        ] {
            let place = Place::parse(argument).expect(argument);
            let mut out = Vec::new();
            let there = place.value(&metadata).write_text(&mut out);
            assert_eq!(
                there.then(|| String::from_utf8_lossy(&out).into_owned()).as_deref(),
                written,
                "{argument}"
            );
        }
        for argument in ["a", ":b)", "a)b", "a):x"] {
            Place::parse(argument).expect_err(argument);
        }
    }
}
