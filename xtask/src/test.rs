//! `cargo xtask test`: everything that has to pass.

use std::process::Command;

use anyhow::Result;
use e2e::{need, packages};

use crate::cargo::{cargo, run, see};
use crate::tools;

/// Runs all checks and tests.
pub(crate) fn run_all() -> Result<()> {
    let programs = packages::TOOLS.iter().map(|(program, _)| *program);
    match (need::is_root(), need::in_ci()) {
        (false, false) => {
            // The tests themselves say what they cannot do.
            let missing = packages::missing(programs);
            if !missing.is_empty() {
                eprintln!(
                    "some tests will be skipped: apt-get install {}",
                    missing.join(" ")
                );
            }
        }
        _ => tools::ensure(programs)?,
    }
    run("fmt --all --check")?;
    run("clippy --locked --workspace --all-targets -- --deny warnings")?;
    let mut doc = cargo();
    doc.args("doc --locked --workspace --no-deps --document-private-items".split_whitespace());
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    see(doc)?;
    if has("cargo-deny") {
        run("deny --offline check licenses bans sources")?;
    } else {
        eprintln!("licences and bans are not checked: cargo install cargo-deny");
    }
    run("test --locked --workspace --doc")?;
    // The end-to-end tests run the programs. With all targets, dependencies have the features that the tests need
    // too, and are not built once more for them.
    run("build --locked --workspace --all-targets")?;
    if has("cargo-nextest") {
        run("nextest run --locked --workspace")?;
    } else {
        run("test --locked --workspace --lib --bins --tests")?;
    }
    Ok(())
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}
