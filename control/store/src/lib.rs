//! Revisions, compare-and-swap and watches over an embedded database.
