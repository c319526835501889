//! `cargo xtask fuzz`: attacks the formats with cargo-fuzz. The targets are in `fuzz/fuzz_targets`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, root, see};

/// Where cargo-fuzz works, as it is called from the root.
const DIRECTORY: &str = "fuzz";

/// Resident memory that no input may need, in MiB.
const MEMORY: u32 = 1024;

/// Time that no input may need, in seconds.
const TIME: u32 = 20;

/// Fuzzes these targets, or all, for so many minutes each.
pub(crate) fn run(minutes: u32, address: bool, chosen: &[String]) -> Result<()> {
    let all = targets()?;
    for target in chosen {
        ensure!(
            all.contains(target),
            "no target {target:?}: there are {}",
            all.join(", ")
        );
    }
    let chosen = if chosen.is_empty() { &all } else { chosen };
    if !is_installed() {
        let mut install = cargo();
        install.args(["install", "--locked", "cargo-fuzz", "--version", "^0.13"]);
        see(install)?;
    }
    let mut found = Vec::new();
    for target in chosen {
        if let Err(error) = fuzz(target, minutes, address) {
            eprintln!("{error:#}");
            found.push(target.as_str());
        }
    }
    if !found.is_empty() {
        bail!(
            "found something: {} (fuzz/artifacts has the inputs)",
            found.join(", ")
        );
    }
    Ok(())
}

/// The names of the programs.
fn targets() -> Result<Vec<String>> {
    let programs = root().join(DIRECTORY).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in programs.read_dir().context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn is_installed() -> bool {
    let mut version = cargo();
    version.args(["fuzz", "--version"]);
    version.stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn fuzz(target: &str, minutes: u32, address: bool) -> Result<()> {
    let corpus = Path::new(DIRECTORY).join("corpus").join(target);
    std::fs::create_dir_all(root().join(&corpus))?;
    let mut command: Command = cargo();
    // Coverage needs options of the compiler that are not stable.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.args(["fuzz", "run", "--fuzz-dir", DIRECTORY, "--sanitizer"]);
    command.arg(if address { "address" } else { "none" });
    command.arg(target);
    command.arg(corpus);
    command.arg(Path::new("testdata/fuzz").join(target));
    command.arg("--");
    command.arg(format!("-max_total_time={}", u64::from(minutes) * 60));
    command.arg(format!(
        "-rss_limit_mb={}",
        if address { 4 * MEMORY } else { MEMORY }
    ));
    command.arg(format!("-timeout={TIME}"));
    command.arg("-dict=fuzz/frz.dict");
    command.arg("-print_final_stats=1");
    see(command)
}
