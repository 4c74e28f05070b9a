//! One runtime value.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

/// What a key says; which of its readings counts depends on who asks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    Bool(bool),
    /// As it was written.
    Number(f64),
    /// Neither number nor truth value, which nobody here asks for.
    Text(String),
    /// A fraction, in millionths.
    Share {
        millionths: u32,
        text: String,
    },
}

/// Every request, as a share.
const ALL: u32 = 1_000_000;

// === impl Entry ===

impl Entry {
    /// The values of a layer. Keys are written with dots, as nested objects, or as both. The error is the key that has no
    /// value that could be one.
    pub(crate) fn all(fields: Map<String, Value>) -> Result<BTreeMap<String, Self>, String> {
        let mut all = BTreeMap::new();
        flatten("", Value::Object(fields), &mut all)?;
        Ok(all)
    }

    /// As a whole number, rounded down.
    pub(crate) fn integer(&self) -> Option<u64> {
        match self {
            Self::Number(number) if *number >= 0.0 => Some(*number as u64),
            _ => None,
        }
    }

    /// As a share in millionths; a mere number is of a hundred.
    pub(crate) fn share(&self) -> Option<u32> {
        match self {
            Self::Share { millionths, .. } => Some(*millionths),
            entry => {
                let percent = entry.integer()?.min(100);
                Some(percent as u32 * (ALL / 100))
            }
        }
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn one(value: Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(value)),
            Value::Number(number) => number.as_f64().map(Self::Number),
            // The configuration language writes numbers as texts at times.
            Value::String(text) => Some(match text.to_ascii_lowercase().as_str() {
                "true" => Self::Bool(true),
                "false" => Self::Bool(false),
                lower => match lower.parse::<f64>() {
                    Ok(number) if number.is_finite() => Self::Number(number),
                    _ => Self::Text(text),
                },
            }),
            Value::Object(fields) => fraction(&fields),
            Value::Null | Value::Array(_) => None,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) | Self::Share { text, .. } => f.write_str(text),
        }
    }
}

fn flatten(key: &str, value: Value, into: &mut BTreeMap<String, Entry>) -> Result<(), String> {
    match value {
        // As Envoy: what has these fields is a fraction, and no level of keys.
        Value::Object(fields) if !fields.contains_key("numerator") && !fields.contains_key("denominator") => {
            fields.into_iter().try_for_each(|(name, value)| {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(&key, value, into)
            })
        }
        value => {
            let entry = Entry::one(value).filter(|_| !key.is_empty()).ok_or_else(|| key.to_owned())?;
            into.insert(key.to_owned(), entry);
            Ok(())
        }
    }
}

/// `envoy.type.v3.FractionalPercent`
fn fraction(fields: &Map<String, Value>) -> Option<Entry> {
    let scale = match fields.get("denominator") {
        None => 10_000.0,
        Some(Value::String(name)) => match name.as_str() {
            "HUNDRED" => 10_000.0,
            "TEN_THOUSAND" => 100.0,
            "MILLION" => 1.0,
            _ => return None,
        },
        Some(number) => match number.as_f64()? {
            0.0 => 10_000.0,
            1.0 => 100.0,
            2.0 => 1.0,
            _ => return None,
        },
    };
    let numerator = fields.get("numerator").map_or(Some(0.0), Value::as_f64)?;
    let known = fields.keys().all(|name| name == "numerator" || name == "denominator");
    let millionths = (numerator * scale).min(f64::from(ALL));
    (known && numerator >= 0.0).then(|| Entry::Share {
        millionths: millionths as u32,
        text: Value::Object(fields.clone()).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(value: Value) -> Option<Entry> {
        let fields = Map::from_iter([("k".to_owned(), value)]);
        Entry::all(fields).ok().and_then(|all| all.into_values().next())
    }

    #[test]
    fn a_value_is_read_as_who_asks_needs_it() {
        let share = |value| one(value).and_then(|entry| entry.share());
        assert_eq!(share(json!(25)), Some(250_000));
        assert_eq!(share(json!("25.9")), Some(250_000));
        assert_eq!(share(json!(400)), Some(ALL));
        assert_eq!(share(json!({"numerator": 5})), Some(50_000));
        assert_eq!(share(json!({"numerator": 5, "denominator": "TEN_THOUSAND"})), Some(500));
        assert_eq!(share(json!({"numerator": 5, "denominator": 2})), Some(5));
        assert_eq!(share(json!("half")), None);
        assert_eq!(share(json!(true)), None);
        assert_eq!(one(json!("TRUE")).and_then(|entry| entry.flag()), Some(true));
        assert_eq!(one(json!(1)).and_then(|entry| entry.flag()), None);
        assert_eq!(one(json!(-1)).and_then(|entry| entry.integer()), None);
    }

    #[test]
    fn keys_are_written_with_dots_as_objects_or_both_and_no_value_is_named() {
        let all = |value: Value| Entry::all(value.as_object().expect("an object").clone());
        let keys: Vec<_> =
            all(json!({"a.b": {"c": 1, "d.e": true}, "f": "x"})).expect("good").into_keys().collect();
        assert_eq!(keys, ["a.b.c", "a.b.d.e", "f"]);
        for (bad, key) in [
            (json!({"a": {"b": null}}), "a.b"),
            (json!({"a": [1]}), "a"),
            (json!({"a": {"numerator": "x"}}), "a"),
            (json!({"a": {"numerator": 1, "denominator": "TWO"}}), "a"),
            (json!({"a": {"numerator": 1, "of": 2}}), "a"),
            (json!({"a": {"numerator": -1}}), "a"),
            (json!({"numerator": 1}), "numerator"),
        ] {
            let error = all(bad.clone()).expect_err(&bad.to_string());
            assert!(error == key || bad == json!({"numerator": 1}), "{bad}: {error}");
        }
    }
}
