//! Programs of the system that know a filesystem.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use frisbee_cli::Failure;

use super::failed;

/// Where system programs are, also for users whose `PATH` has no `sbin`.
const SYSTEM_PATHS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The path of a program, if it is installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(SYSTEM_PATHS.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// What a program that must be there says; `good` are the exit codes with which it has done its work.
///
/// # Errors
/// If it is not installed, or with the last line that it has said.
pub(super) fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    good: &[i32],
) -> Result<String, Failure> {
    let path = find(program).ok_or_else(|| failed(format!("{program} is not installed")))?;
    let output = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{program}: {error}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    if output
        .status
        .code()
        .is_some_and(|code| good.contains(&code))
    {
        return Ok(said);
    }
    let all = if complained.is_empty() {
        said
    } else {
        complained
    };
    let last = all.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("it says nothing").trim();
    Err(failed(format!("{program}: {last} ({})", output.status)))
}
