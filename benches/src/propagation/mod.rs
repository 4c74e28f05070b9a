//! How fast a change reaches every proxy, and what that costs the control service.
//!
//! Three processes: [`control`] is the real publisher and ADS server over a synthetic mesh, [`sidecars`] are clients that
//! do nothing but acknowledge, and the `propagation` binary starts both and reads what they used. Time is taken in the
//! control process: from the new state of the mesh until the last proxy's acknowledgement has been read.

pub mod control;
pub mod sidecars;
pub mod world;
