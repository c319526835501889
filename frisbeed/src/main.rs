//! `frisbeed`: see `frisbeed --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    frisbee_cli::run("frisbeed", frisbeed::main)
}
