//! The Debian packages that a task needs.

use std::process::Command;

use anyhow::{Result, bail};
use e2e::{need, packages};

use crate::cargo::see;

/// Makes sure that these programs are installed: as root installs what is missing, otherwise says what to install.
pub(crate) fn ensure<'a>(programs: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let missing = packages::missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    if !need::is_root() {
        bail!(
            "some programs are missing: apt-get install {}",
            missing.join(" ")
        );
    }
    apt(&["update", "-q"])?;
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(missing);
    apt(&words)
}

fn apt(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive");
    see(command)
}
