//! Kubernetes object types, selectors, quantities, patches and validation.

pub mod mesh;
