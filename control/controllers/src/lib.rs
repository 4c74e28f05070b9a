//! Reconcilers that drive the cluster to what its objects say.
