//! The data plane: a sidecar proxy configured in the language of Envoy.
