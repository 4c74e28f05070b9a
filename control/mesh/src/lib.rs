//! Turns cluster objects into xDS snapshots, and load reports into metrics.
