//! Places for files: a directory for each test, and one that keeps what is costly to make.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::command::profile_directory;

/// Bytes that must be free in memory, so that it is used for disks.
const MEMORY_MIN: u64 = 6 << 30;

/// `target/tmp/e2e`, on the disk of the checkout.
fn base() -> Result<PathBuf> {
    let profile = profile_directory()?;
    let target = profile
        .parent()
        .context("the profile directory has no parent")?;
    let base = target.join("tmp/e2e");
    fs::create_dir_all(&base).with_context(|| format!("{}: cannot be made", base.display()))?;
    Ok(base)
}

/// Removes directories of processes that are no more.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix("run-")
            .and_then(|rest| rest.split('-').next());
        if process.is_some_and(is_gone) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether no process has this number.
pub(crate) fn is_gone(process: &str) -> bool {
    process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
}

/// An empty directory that is removed with its contents when it is dropped.
///
/// # Errors
/// If it cannot be made.
pub fn directory() -> Result<TempDir> {
    let base = base()?;
    sweep(&base);
    let prefix = format!("run-{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(base)?)
}

/// As [`directory`], in memory if there is much of it: for what writes through to a disk again and again.
///
/// # Errors
/// If it cannot be made.
pub fn in_memory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let free = statvfs(memory).map_or(0, |room| room.blocks_available() * room.fragment_size());
    if free < MEMORY_MIN {
        return directory();
    }
    // Ends as the other one does, so that loop devices of killed tests are found.
    let base = memory.join("frisbee/tmp/e2e");
    fs::create_dir_all(&base)?;
    sweep(&base);
    let prefix = format!("run-{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(base)?)
}

/// The directory `name` in the cache of this checkout; `make` fills it, once for all processes.
///
/// # Errors
/// Those of `make`, after which nothing is kept.
pub fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = base()?.join("cache");
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    let place = cache.join(name);
    if !place.exists() {
        let unfinished = cache.join(format!("{name}.unfinished"));
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished)?;
        make(&unfinished)?;
        fs::rename(&unfinished, &place)?;
    }
    Ok(place)
}
