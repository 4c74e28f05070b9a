//! The xDS protocol as state machines without sockets, clocks or randomness.
