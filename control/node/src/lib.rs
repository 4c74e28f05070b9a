//! The node agent: runs pods and their sidecars.
