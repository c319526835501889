//! Makes an image of a disk.

use std::process::ExitCode;

use clap::Parser;
use imagezip::zip::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    frisbee_cli::run("imagezip", || cli.events().watch(|| cli.run()))
}
