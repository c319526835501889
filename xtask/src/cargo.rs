//! Calling cargo, and calling oneself with other binaries.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the end-to-end harness looks for the programs.
const BINARIES: &str = "E2E_BINARIES";

/// The packages with the programs.
pub(crate) const PROGRAMS: [&str; 4] = ["imagezip", "imageunzip", "frisbeed", "frisbee-client"];

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command whose output the user sees.
pub(crate) fn see(mut command: Command) -> Result<()> {
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let shown = words.join(" ");
    eprintln!("+ {shown}");
    let status = command
        .status()
        .with_context(|| format!("{shown}: cannot be started"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Runs cargo with these words.
pub(crate) fn run(words: &str) -> Result<()> {
    let mut command = cargo();
    command.args(words.split_whitespace());
    see(command)
}

/// The directory of the release binaries, built.
pub(crate) fn release() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked"]);
    for program in PROGRAMS {
        command.args(["--package", program]);
    }
    see(command)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release"))
}

/// Makes sure that the harness runs release binaries: builds them and starts this program again. `true` if this is
/// that second run, which is to do the work; `false` if the work has been done by it.
pub(crate) fn with_release_binaries() -> Result<bool> {
    if std::env::var_os(BINARIES).is_some() {
        return Ok(true);
    }
    let directory = release()?;
    let mut again = Command::new(std::env::current_exe()?);
    again
        .args(std::env::args_os().skip(1))
        .env(BINARIES, directory);
    let status = again.status()?;
    ensure!(status.success(), "failed, as said above");
    Ok(false)
}
