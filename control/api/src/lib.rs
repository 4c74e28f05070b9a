//! Kubernetes object types, selectors, quantities, patches and validation.
