//! When what changed a resource happened: in the resource's metadata on incremental streams, where only our own client
//! looks.
//!
//! It is no part of the content and so of no version: the same content at another time is not sent again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Struct, Value, value::Kind},
};

/// Whose metadata it is.
const NAMESPACE: &str = "weft.dev";
/// Seconds since 1970. What a double can tell of it is finer than a microsecond.
const FIELD: &str = "caused_at";

/// As it travels.
pub(crate) fn to_metadata(at: SystemTime) -> Metadata {
    // A clock before 1970 is not worth more than a wrong time.
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let value = Value { kind: Some(Kind::NumberValue(seconds)) };
    let fields = Struct { fields: [(FIELD.to_owned(), value)].into() };
    Metadata { filter_metadata: [(NAMESPACE.to_owned(), fields)].into(), ..Metadata::default() }
}

/// `None` if it is not there or no time.
pub(crate) fn from_metadata(metadata: &Metadata) -> Option<SystemTime> {
    let value = metadata.filter_metadata.get(NAMESPACE)?.fields.get(FIELD)?;
    match value.kind {
        Some(Kind::NumberValue(seconds)) => {
            UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_way_and_nonsense_is_no_time() {
        let at = UNIX_EPOCH + Duration::from_micros(1_798_761_600_123_456);
        let read = from_metadata(&to_metadata(at)).expect("a time");
        let difference = read.duration_since(at).unwrap_or_else(|error| error.duration());
        assert!(difference < Duration::from_micros(1), "{difference:?}");
        assert_eq!(from_metadata(&Metadata::default()), None);
        for bad in [f64::NAN, -1.0, f64::INFINITY, 1e30] {
            let mut metadata = to_metadata(at);
            let fields = &mut metadata.filter_metadata.get_mut(NAMESPACE).expect("ours").fields;
            fields.insert(FIELD.to_owned(), Value { kind: Some(Kind::NumberValue(bad)) });
            assert_eq!(from_metadata(&metadata), None, "{bad}");
        }
    }
}
