//! Makes and shows keys.

use std::process::ExitCode;

use clap::Parser;
use imagezip::key::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    frisbee_cli::run("imagekey", || cli.run())
}
