//! What is about HTTP and not about Kubernetes objects: paths, parameters, media types, bodies.

pub(crate) mod body;
pub(crate) mod media;
pub(crate) mod params;
pub(crate) mod path;
