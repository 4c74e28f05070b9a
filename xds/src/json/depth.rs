//! How deeply messages are nested, through the wrapped ones too.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{ConfigError, pool::Descriptors};
use crate::{any::type_name, pb::google::protobuf::Any};

/// As deep as a JSON document may be. Decoders bound the depth of one message, but a wrapped message is but bytes to
/// them, and whoever then prints what is wrapped in what is wrapped recurses without bound.
const MAX_DEPTH: usize = 128;

/// Refuses a message that is nested too deeply to be printed.
pub(super) fn check(pool: &Descriptors, message: &DynamicMessage) -> Result<(), ConfigError> {
    check_message(pool, message, 0)
}

fn check_message(pool: &Descriptors, message: &DynamicMessage, depth: usize) -> Result<(), ConfigError> {
    let descriptor = message.descriptor();
    let error = |reason| ConfigError { path: descriptor.full_name().to_owned(), reason };
    if depth > MAX_DEPTH {
        return Err(error(format!("nested more than {MAX_DEPTH} levels deep")));
    }
    if descriptor.full_name() == "google.protobuf.Any" {
        let any: Any = message.transcode_to().map_err(|source| error(source.to_string()))?;
        // What is not known is not decoded when it is printed, it is an error there.
        let Some(inner) = pool.message(type_name(&any.type_url)) else { return Ok(()) };
        let inner = DynamicMessage::decode(inner, any.value.as_slice())
            .map_err(|source| error(source.to_string()))?;
        return check_message(pool, &inner, depth + 1);
    }
    message.fields().try_for_each(|(_, value)| check_value(pool, value, depth + 1))
}

fn check_value(pool: &Descriptors, value: &Value, depth: usize) -> Result<(), ConfigError> {
    match value {
        Value::Message(message) => check_message(pool, message, depth),
        Value::List(values) => values.iter().try_for_each(|value| check_value(pool, value, depth)),
        Value::Map(values) => values.values().try_for_each(|value| check_value(pool, value, depth)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use crate::{json::any_to_json, pb::google::protobuf::Any};

    /// Wraps a message in a wrapper again and again.
    fn wrapped(times: usize) -> Any {
        let type_url = "type.googleapis.com/google.protobuf.Any".to_owned();
        let inner =
            Any { type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(), value: Vec::new() };
        (0..times).fold(inner, |inner, _| Any { type_url: type_url.clone(), value: inner.encode_to_vec() })
    }

    #[test]
    fn wrapping_without_end_is_refused() {
        any_to_json(&wrapped(50)).expect("deep, but bounded");
        let error = any_to_json(&wrapped(2_000)).expect_err("too deep");
        assert!(error.reason.contains("128 levels"), "{error}");
    }
}
