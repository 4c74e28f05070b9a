//! Container logs as `kubectl logs` asks for them, whatever the runtime keeps them in.

mod line;
mod select;

pub(crate) use self::{
    line::LogLine,
    select::{LogOptions, Selection},
};
