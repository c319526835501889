//! Shows what an image consists of.

use std::process::ExitCode;

use clap::Parser;
use imageunzip::dump::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    frisbee_cli::run("imagedump", || cli.run())
}
