//! Messages in and out of `google.protobuf.Any`.

use prost::{Message, Name};

use crate::pb::google::protobuf::Any;

/// Why an [`Any`] does not hold the message that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It says that it holds another type.
    #[error("type is {found:?}, expected {expected:?}")]
    Type {
        /// What the type URL names.
        found: String,
        /// The message that was asked for.
        expected: String,
    },
    /// Its bytes are not such a message.
    #[error("not a valid {expected}")]
    Decode {
        /// The message that was asked for.
        expected: String,
        /// Where decoding stopped.
        #[source]
        source: prost::DecodeError,
    },
}

/// Wraps a message together with its type URL.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Reads the message that `any` must hold.
///
/// As in Envoy, only what follows the last `/` of the type URL counts.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    let expected = M::full_name();
    let found = type_name(&any.type_url);
    if found != expected {
        return Err(UnpackError::Type { found: found.to_owned(), expected });
    }
    M::decode(any.value.as_slice()).map_err(|source| UnpackError::Decode { expected, source })
}

/// The full name of the message that a type URL names.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};

    #[test]
    fn gives_back_what_was_packed() {
        let cluster = Cluster { name: "web".into(), ..Default::default() };
        assert_eq!(unpack::<Cluster>(&pack(&cluster)).expect("it is a cluster"), cluster);
    }

    #[test]
    fn refuses_another_type_by_name() {
        let error = unpack::<Listener>(&pack(&Cluster::default())).expect_err("a cluster is no listener");
        assert!(error.to_string().contains("envoy.config.cluster.v3.Cluster"), "{error}");
    }

    #[test]
    fn refuses_bytes_that_are_no_message() {
        let any = Any { type_url: Cluster::type_url(), value: vec![0xff; 3] };
        assert!(matches!(unpack::<Cluster>(&any), Err(UnpackError::Decode { .. })));
    }
}
