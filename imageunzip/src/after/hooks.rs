//! Programs of the site that finish a node, with its root filesystem mounted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use frisbee_cli::{Exit, Failure};

use super::{Installed, failed};

/// The executables of a directory, in order of their names.
///
/// # Errors
/// [`Exit::Usage`] if it cannot be read, or has none.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let usage = |text: String| {
        let directory = directory.display();
        Failure::new(Exit::Usage, format!("--hooks {directory}: {text}"))
    };
    let entries = fs::read_dir(directory).map_err(|error| usage(error.to_string()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| usage(error.to_string()))?.path();
        let executable = fs::metadata(&path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
        if executable {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(usage("there is no executable file in it".into()));
    }
    found.sort_unstable();
    // What a shell would look for in PATH.
    let absolute =
        |path: &PathBuf| fs::canonicalize(path).map_err(|error| usage(error.to_string()));
    let directory = absolute(&directory.to_path_buf())?;
    let named = found.iter().filter_map(|path| path.file_name());
    Ok(named.map(|name| directory.join(name)).collect())
}

/// Runs one of them.
pub(super) fn run(hook: &Path, root: &Path, installed: &Installed<'_>) -> Result<(), Failure> {
    let name = hook.display();
    // stdout may be what events go to.
    let stdout = std::io::stderr();
    let stdout = std::os::fd::AsFd::as_fd(&stdout)
        .try_clone_to_owned()
        .map_or_else(|_| Stdio::null(), Stdio::from);
    let target = fs::canonicalize(installed.target).unwrap_or_else(|_| installed.target.into());
    let status = Command::new(hook)
        .env("FRISBEE_ROOT", root)
        .env("FRISBEE_TARGET", target)
        .env("FRISBEE_IMAGE", &installed.image.name)
        .env("FRISBEE_UUID", &installed.image.uuid)
        .env("FRISBEE_EPOCH", &installed.image.epoch)
        .stdin(Stdio::null())
        .stdout(stdout)
        .status()
        .map_err(|error| failed(format!("the hook {name} cannot be run: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("the hook {name} failed: {status}"))),
    }
}
