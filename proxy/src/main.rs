//! The slim proxy binary; everything is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use weft_proxy::cli::{Args, run};

fn main() -> ExitCode {
    run(Args::parse())
}
