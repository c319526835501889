//! Installs an image from a file or a pipe.

use std::process::ExitCode;

use clap::Parser;
use imageunzip::unzip::Cli;

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    frisbee_cli::run("imageunzip", || cli.events().watch(|| cli.run()))
}
