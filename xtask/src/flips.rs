//! `cargo xtask flips`: every bit of a 4 MiB image turned over, before a release.
//!
//! Of the large image, what stands before the part with the wrong bit is read as without the flip: so a flip costs the
//! header, one chunk and its signature, not the whole image. A small image is read as a whole for each flip.

use anyhow::Result;

use crate::cargo::{cargo, see};

/// Turns over every `every`th bit.
pub(crate) fn run(every: u32) -> Result<()> {
    let mut command = cargo();
    command.args("run --release --locked --package fuzz-harness --example flips --".split(' '));
    command.arg(every.to_string());
    see(command)
}
