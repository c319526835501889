//! `cargo xtask dist`: what a package holds.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cargo::{self, PROGRAMS};

/// Builds programs, manual pages and completions into `target/dist`.
pub(crate) fn run() -> Result<()> {
    let binaries = cargo::release()?;
    let dist = binaries
        .parent()
        .context("the release directory has no parent")?
        .join("dist");
    let place = dist.join("bin");
    fs::create_dir_all(&place)?;
    for name in PROGRAMS.into_iter().chain(["imagekey", "imagedump"]) {
        fs::copy(binaries.join(name), place.join(name)).with_context(|| name.to_owned())?;
    }
    cargo::run(&format!(
        "run --quiet --package xtask --features manuals -- manuals {}",
        dist.display()
    ))?;
    eprintln!("{}: programs, man pages, completions", dist.display());
    Ok(())
}

/// Writes manual pages and completions.
#[cfg(feature = "manuals")]
pub(crate) fn manuals(directory: &Path) -> Result<()> {
    use clap::CommandFactory;
    use clap_complete::Shell;

    let (man, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let commands = [
        imagezip::zip::Cli::command(),
        imagezip::key::Cli::command(),
        imageunzip::unzip::Cli::command(),
        imageunzip::dump::Cli::command(),
        frisbeed::command(),
        frisbee_client::command(),
    ];
    for mut command in commands {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, &name, &completions)?;
        }
        clap_mangen::generate_to(command, &man)?;
    }
    Ok(())
}

/// Writes manual pages and completions.
#[cfg(not(feature = "manuals"))]
pub(crate) fn manuals(_: &Path) -> Result<()> {
    anyhow::bail!("built without the feature 'manuals': use cargo xtask dist")
}
