//! System calls that nobody wraps safely: the only place of the workspace where `unsafe` is allowed (a test of the
//! project's structure checks it). Each function says why its call cannot harm.

#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

mod memory;
mod watch;

pub(crate) use memory::{release_unused, trim_heap};
pub(crate) use watch::Moves;
