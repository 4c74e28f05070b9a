//! Kubernetes' protobuf bodies: the magic bytes, a `runtime.Unknown`, and in it an object of one of the types of `fields.txt`.
//!
//! Only decoding is needed: clients that send protobuf accept JSON in return.

mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::fields::{self, Arity, Field, Kind, Message};
use crate::json;
use crate::registry::split_api_version;
use wire::{Reader, Wire, WireError};

/// A body that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The body does not start with the magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix \"k8s\\x00\"")]
    Magic,
    /// The kind has no known layout.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// The bytes break the encoding.
    #[error("malformed protobuf at \"{path}\": {reason}")]
    Malformed {
        /// Path of the field; empty at the top.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

const MAGIC: &[u8] = b"k8s\0";

/// The types nest 12 deep at most; whatever nests deeper is an attack.
const MAX_DEPTH: usize = 32;

/// Whether the body claims to be protobuf.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Decodes a body into the object that JSON would have carried, `apiVersion` and `kind` included. What JSON leaves out
/// because it is empty is left out.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let (api_version, kind, raw) = unwrap_unknown(envelope).map_err(|e| malformed("", e))?;
    let unknown_kind = || DecodeError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() };
    let message = layout(&api_version, &kind).ok_or_else(unknown_kind)?;
    let mut object = Map::new();
    Decoder { path: String::new() }.message(message, raw, &mut object, MAX_DEPTH)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// Splits a `runtime.Unknown` into `apiVersion`, `kind` and the object's bytes.
fn unwrap_unknown(envelope: &[u8]) -> Result<(String, String, &[u8]), WireError> {
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = Default::default();
    let mut reader = Reader::new(envelope);
    while let Some((tag, wire)) = reader.next_field()? {
        match tag {
            1 => {
                let mut reader = Reader::new(wire.bytes()?);
                while let Some((tag, wire)) = reader.next_field()? {
                    match tag {
                        1 => api_version = wire.text()?.to_owned(),
                        2 => kind = wire.text()?.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

fn layout(api_version: &str, kind: &str) -> Option<&'static Message> {
    // Every group version registers the options of its verbs under its own name.
    if kind == "DeleteOptions" {
        return fields::message("apimachinery.pkg.apis.meta.v1.DeleteOptions");
    }
    let (group, version) = split_api_version(api_version);
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    fields::message(&format!("api.{package}.{version}.{kind}"))
}

fn malformed(path: &str, WireError(reason): WireError) -> DecodeError {
    DecodeError::Malformed { path: path.to_owned(), reason }
}

struct Decoder {
    path: String,
}

impl Decoder {
    fn message(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth_left: usize,
    ) -> Result<(), DecodeError> {
        let depth_left =
            depth_left.checked_sub(1).ok_or_else(|| malformed(&self.path, WireError("nested too deep")))?;
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.next_field().map_err(|e| malformed(&self.path, e))? {
            // A field of a newer Kubernetes than we serve.
            let Some(field) = message.by_tag(tag) else { continue };
            let Some(name) = field.name else {
                if let Some(inner) = field.message() {
                    let bytes = wire.bytes().map_err(|e| malformed(&self.path, e))?;
                    self.message(inner, bytes, object, depth_left)?;
                }
                continue;
            };
            let outer = self.path.len();
            if outer > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
            self.field(field, name, wire, object, depth_left)?;
            self.path.truncate(outer);
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        name: &'static str,
        wire: Wire<'_>,
        object: &mut Map<String, Value>,
        depth_left: usize,
    ) -> Result<(), DecodeError> {
        match field.arity {
            Arity::One => {
                let value = self.value(field.kind, wire, depth_left)?;
                if !value.is_null() && (field.keeps_zero || !is_omitted(&value)) {
                    // Of a message that comes in pieces the pieces are merged; no real client sends one.
                    object.insert(name.into(), value);
                }
            }
            Arity::List => {
                let value = self.value(field.kind, wire, depth_left)?;
                if let Some(items) =
                    object.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
                {
                    items.push(value);
                }
            }
            Arity::Map => {
                let (key, value) = self.entry(field.kind, wire, depth_left)?;
                if let Some(entries) =
                    object.entry(name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
                {
                    entries.insert(key, value);
                }
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: Kind,
        wire: Wire<'_>,
        depth_left: usize,
    ) -> Result<(String, Value), DecodeError> {
        let mut key = String::new();
        let mut value = None;
        let mut reader = Reader::new(wire.bytes().map_err(|e| malformed(&self.path, e))?);
        while let Some((tag, wire)) = reader.next_field().map_err(|e| malformed(&self.path, e))? {
            match tag {
                1 => wire.text().map_err(|e| malformed(&self.path, e))?.clone_into(&mut key),
                2 => value = Some(self.value(kind, wire, depth_left)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.value(kind, Wire::Bytes(&[]), depth_left)?,
        };
        Ok((key, value))
    }

    fn value(&mut self, kind: Kind, wire: Wire<'_>, depth_left: usize) -> Result<Value, DecodeError> {
        if let Kind::Message(definition) = kind {
            let mut object = Map::new();
            let bytes = wire.bytes().map_err(|e| malformed(&self.path, e))?;
            if let Some(message) = fields::message(definition) {
                self.message(message, bytes, &mut object, depth_left)?;
            }
            return Ok(Value::Object(object));
        }
        leaf(kind, wire).map_err(|e| malformed(&self.path, e))
    }
}

/// Whether JSON leaves the value out where absence means the same. Objects stay: an empty one may be a choice, as
/// `emptyDir: {}` is.
fn is_omitted(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn leaf(kind: Kind, wire: Wire<'_>) -> Result<Value, WireError> {
    Ok(match kind {
        Kind::Text => wire.text()?.into(),
        Kind::Bool => (wire.varint()? != 0).into(),
        // Negative numbers are sign-extended to 64 bits on the wire.
        Kind::Int32 => (wire.varint()? as i32).into(),
        Kind::Int64 => (wire.varint()? as i64).into(),
        Kind::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Kind::Time => time(wire.bytes()?, false)?,
        Kind::MicroTime => time(wire.bytes()?, true)?,
        Kind::Raw => match first(wire.bytes()?, 1)?.map(|w| w.bytes()).transpose()? {
            Some(raw) if !raw.is_empty() => json::parse(raw).map_err(|_| WireError("invalid JSON"))?.value,
            _ => Value::Null,
        },
        Kind::Duration => {
            let nanos = first(wire.bytes()?, 1)?.map(|w| w.varint()).transpose()?.unwrap_or(0) as i64;
            format!("{}s", nanos as f64 / 1e9).into()
        }
        Kind::Quantity => match first(wire.bytes()?, 1)? {
            Some(text) if !text.text()?.is_empty() => text.text()?.into(),
            _ => "0".into(),
        },
        Kind::IntOrString => int_or_string(wire.bytes()?)?,
        Kind::Texts => {
            let mut items = Vec::new();
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((_, wire)) = reader.next_field()? {
                items.push(wire.text()?.into());
            }
            Value::Array(items)
        }
        // Handled by the caller, which knows how deep it is.
        Kind::Message(_) => Value::Null,
    })
}

fn first(bytes: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, WireError> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next_field()? {
        if tag == wanted {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

/// An empty message is Go's zero time, which JSON shows as null.
fn time(bytes: &[u8], micros: bool) -> Result<Value, WireError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let seconds = first(bytes, 1)?.map(|w| w.varint()).transpose()?.unwrap_or(0) as i64;
    let nanos = first(bytes, 2)?.map(|w| w.varint()).transpose()?.unwrap_or(0) as i32;
    let stamp = Timestamp::new(seconds, nanos).map_err(|_| WireError("time out of range"))?;
    Ok(if micros { format!("{stamp:.6}").into() } else { format!("{stamp:.0}").into() })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    let is_text = first(bytes, 1)?.map(|w| w.varint()).transpose()?.unwrap_or(0) != 0;
    if is_text {
        let text = first(bytes, 3)?.map(|w| w.text()).transpose()?.unwrap_or("");
        return Ok(text.into());
    }
    let number = first(bytes, 2)?.map(|w| w.varint()).transpose()?.unwrap_or(0);
    Ok((number as i32).into())
}

#[cfg(test)]
mod tests;
