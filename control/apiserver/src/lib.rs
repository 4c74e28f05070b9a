//! The Kubernetes API, served from the store.
