//! The xDS protocol as state machines without sockets, clocks or randomness.
//!
//! Each end of a stream is one value that takes what was received and gives what is to be sent: [`server`] for both
//! variants of the protocol, [`client::DeltaClient`] and [`client::SotwClient`] for the other end. The async shells
//! around them are [`crate::server`] and [`crate::client`].

pub mod client;
mod nack;
mod resources;
pub mod server;
mod snapshot;
#[cfg(test)]
mod tests;
mod versioned;

pub use self::{
    resources::{Change, Resources},
    snapshot::{Layer, TypeSnapshot, Version, VersionedSnapshot},
    versioned::{Name, VersionedResource},
};
