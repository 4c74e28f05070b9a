//! Kubernetes object types, selectors, quantities, patches and validation.

mod access;
pub mod convert;
pub mod defaults;
mod fields;
pub mod json;
pub mod mesh;
mod openapi;
pub mod openapi_v2_pb;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;
