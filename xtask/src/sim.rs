//! `cargo xtask sim`: the simulator, optimised.

use anyhow::Result;

use crate::cargo::{cargo, see};

/// Runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args("run --release --locked --package frisbee-sim --example sim --".split(' '));
    command.args(arguments);
    see(command)
}
