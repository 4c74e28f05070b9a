//! The shim and the pause process alone, for this crate's tests and for hosts where the `weft` binary is too much for
//! them: `weft-shim shim SPEC`, `weft-shim pause`.

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, spec] if command == "shim" => weft_node::shim_main(Path::new(spec)),
        [command] if command == "pause" => weft_node::pause_main(),
        _ => {
            eprintln!("usage: weft-shim shim SPEC | weft-shim pause");
            ExitCode::from(2)
        }
    }
}
