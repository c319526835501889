//! Installs a multicast image: see `frisbee-client --help`.

use std::process::ExitCode;

use clap::Parser;
use frisbee_client::Cli;

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    frisbee_cli::run("frisbee-client", || cli.events().watch(|| cli.run()))
}
