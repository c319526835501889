//! Serves an image: see `frisbeed --help`.

use std::process::ExitCode;

use clap::Parser;
use frisbeed::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    frisbee_cli::run("frisbeed", || cli.events().watch(|| cli.run()))
}
