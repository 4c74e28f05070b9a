//! A deserializer of [`Value`] that remembers where it is.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Where the reader stands and what it has found.
#[derive(Default)]
pub(super) struct Seen {
    path: String,
    duplicates: Vec<String>,
}

/// Reads one value at the place that `seen` names.
pub(super) struct Seed<'a> {
    seen: &'a mut Seen,
    depth_left: usize,
}

// === impl Seen ===

impl Seen {
    pub(super) fn into_duplicates(self) -> Vec<String> {
        self.duplicates
    }

    /// Appends a field name and returns the length to cut back to.
    fn enter_field(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn enter_item(&mut self, index: usize) -> usize {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }
}

// === impl Seed ===

impl<'a> Seed<'a> {
    pub(super) fn root(seen: &'a mut Seen, max_depth: usize) -> Self {
        Self { seen, depth_left: max_depth }
    }

    fn below<E: Error>(&mut self) -> Result<Seed<'_>, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("exceeded max depth"))?;
        Ok(Seed { seen: self.seen, depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let length = self.seen.enter_item(items.len());
            let item = access.next_element_seed(self.below()?)?;
            self.seen.leave(length);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let length = self.seen.enter_field(&name);
            if fields.contains_key(&name) && self.seen.duplicates.last() != Some(&self.seen.path) {
                self.seen.duplicates.push(self.seen.path.clone());
            }
            let value = access.next_value_seed(self.below()?)?;
            self.seen.leave(length);
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}
