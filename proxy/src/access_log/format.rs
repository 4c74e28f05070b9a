//! Envoy's format strings, compiled.

use serde_json::{Map, Value as Json};

use super::{
    Entry,
    operator::{Operator, Value},
};

/// Envoy's default line.
pub(crate) const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Format {
    shape: Shape,
    /// What is not there leaves nothing behind: no `-`, no `null`.
    omit_empty: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Text(Vec<Part>),
    /// One object per line, its keys sorted as Envoy does.
    Json(Node),
}

/// A value in a JSON format.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// A single operator keeps its type: a number stays a number.
    Operator(Operator),
    Text(Vec<Part>),
    /// Each key with its quotes and colon.
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
    /// JSON text.
    Constant(String),
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Literal(String),
    Operator(Operator),
}

// === impl Format ===

impl Format {
    /// Compiles a text format; the error names the operator that is not known.
    pub(crate) fn text(format: &str) -> Result<Self, String> {
        Ok(Self { shape: Shape::Text(parse(format)?), omit_empty: false })
    }

    /// Compiles a JSON format.
    pub(crate) fn json(format: &Map<String, Json>) -> Result<Self, String> {
        Ok(Self { shape: Shape::Json(object(format)?), omit_empty: false })
    }

    pub(crate) fn omit_empty(self, omit_empty: bool) -> Self {
        Self { omit_empty, ..self }
    }

    /// Appends one line.
    pub(crate) fn write(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match &self.shape {
            Shape::Text(parts) => self.write_parts(parts, entry, out, false),
            Shape::Json(node) => {
                self.write_node(node, entry, out);
                out.push(b'\n');
            }
        }
    }

    fn write_parts(&self, parts: &[Part], entry: &Entry<'_>, out: &mut Vec<u8>, escaped: bool) {
        for part in parts {
            match part {
                Part::Literal(literal) if escaped => escape(literal.as_bytes(), out),
                Part::Literal(literal) => out.extend_from_slice(literal.as_bytes()),
                Part::Operator(operator) => {
                    let value = operator.value(entry);
                    let written = match value {
                        Value::Bytes(bytes) if escaped => {
                            escape(bytes, out);
                            true
                        }
                        Value::Json(_) | Value::Object(_) if escaped => {
                            let mut text = Vec::new();
                            value.write_plain(&mut text);
                            escape(&text, out);
                            true
                        }
                        value => value.write_text(out),
                    };
                    if !written && !self.omit_empty {
                        out.push(b'-');
                    }
                }
            }
        }
    }

    fn write_node(&self, node: &Node, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match node {
            Node::Constant(text) => out.extend_from_slice(text.as_bytes()),
            Node::Text(parts) => {
                out.push(b'"');
                self.write_parts(parts, entry, out, true);
                out.push(b'"');
            }
            Node::Operator(operator) => match operator.value(entry) {
                Value::Missing => out.extend_from_slice(b"null"),
                value @ (Value::Number(_) | Value::Json(_) | Value::Object(_)) => value.write_plain(out),
                Value::Bytes(bytes) => {
                    out.push(b'"');
                    escape(bytes, out);
                    out.push(b'"');
                }
                value => {
                    out.push(b'"');
                    if !value.write_text(out) {
                        out.push(b'-');
                    }
                    out.push(b'"');
                }
            },
            Node::List(nodes) => {
                out.push(b'[');
                let mut first = true;
                for node in nodes.iter().filter(|node| !self.leaves_out(node, entry)) {
                    separate(&mut first, out);
                    self.write_node(node, entry, out);
                }
                out.push(b']');
            }
            Node::Object(fields) => {
                out.push(b'{');
                let mut first = true;
                for (key, node) in fields.iter().filter(|(_, node)| !self.leaves_out(node, entry)) {
                    separate(&mut first, out);
                    out.extend_from_slice(key.as_bytes());
                    self.write_node(node, entry, out);
                }
                out.push(b'}');
            }
        }
    }

    fn leaves_out(&self, node: &Node, entry: &Entry<'_>) -> bool {
        self.omit_empty
            && matches!(node, Node::Operator(operator) if matches!(operator.value(entry), Value::Missing | Value::Flags(["", "", ""])))
    }
}

fn object(format: &Map<String, Json>) -> Result<Node, String> {
    let fields = format
        .iter()
        .map(|(key, value)| Ok((format!("{}:", Json::String(key.clone())), node(value)?)))
        .collect::<Result<_, String>>()?;
    Ok(Node::Object(fields))
}

fn node(value: &Json) -> Result<Node, String> {
    Ok(match value {
        Json::String(text) => {
            let mut parts = parse(text)?;
            match (parts.pop(), parts.is_empty()) {
                (Some(Part::Operator(operator)), true) => Node::Operator(operator),
                (last, _) => {
                    parts.extend(last);
                    Node::Text(parts)
                }
            }
        }
        Json::Object(inner) => object(inner)?,
        Json::Array(items) => Node::List(items.iter().map(node).collect::<Result<_, _>>()?),
        constant => Node::Constant(constant.to_string()),
    })
}

fn parse(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        if start > 0 {
            parts.push(Part::Literal(rest[..start].to_owned()));
        }
        let after = &rest[start + 1..];
        if let Some(escaped) = after.strip_prefix('%') {
            parts.push(Part::Literal("%".to_owned()));
            rest = escaped;
            continue;
        }
        let end = end_of(after).ok_or_else(|| format!("operator {after:?} has no end"))?;
        parts.push(Part::Operator(Operator::parse(&after[..end])?));
        rest = &after[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

/// Where an operator ends; a `%` in its brackets belongs to it.
fn end_of(text: &str) -> Option<usize> {
    let percent = text.find('%')?;
    match text[..percent].find('(') {
        None => Some(percent),
        Some(open) => {
            let close = open + text[open..].find(')')?;
            Some(close + text[close..].find('%')?)
        }
    }
}

fn separate(first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
}

/// Writes the inside of a JSON string; what is no UTF-8 becomes U+FFFD.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for chunk in bytes.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..=0x1f => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
                byte => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
