//! The xDS protocol, both ends, and the Envoy configuration language.
