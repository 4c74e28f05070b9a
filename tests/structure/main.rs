//! Tests of the tree itself: the architecture's arrows, and that the README says what is true.

mod arrows;
mod readme;
mod unsafe_code;
