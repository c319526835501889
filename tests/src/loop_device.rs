//! Files as block devices.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command::must;
use crate::scratch::is_gone;

/// A loop device; detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a file as a disk with sectors of this many bytes.
    ///
    /// # Errors
    /// What `losetup` says.
    pub fn attach(file: &Path, sector_size: u32) -> Result<Self> {
        Self::with(file, &["--sector-size", &sector_size.to_string()])
    }

    /// Attaches a part of a file, read-only.
    ///
    /// # Errors
    /// What `losetup` says.
    pub fn read_only(file: &Path, offset: u64) -> Result<Self> {
        Self::with(file, &["--read-only", "--offset", &offset.to_string()])
    }

    /// Attaches `bytes` bytes of a file from `offset` on, as a disk with sectors of this many bytes.
    ///
    /// # Errors
    /// What `losetup` says.
    pub fn part(
        file: &Path,
        (offset, bytes): (u64, u64),
        sector_size: u32,
        read_only: bool,
    ) -> Result<Self> {
        let (offset, bytes) = (offset.to_string(), bytes.to_string());
        let size = sector_size.to_string();
        let mut options = vec!["--offset", &offset, "--sizelimit", &bytes];
        options.extend(["--sector-size", &size]);
        if read_only {
            options.push("--read-only");
        }
        Self::with(file, &options)
    }

    fn with(file: &Path, options: &[&str]) -> Result<Self> {
        sweep()?;
        let mut arguments = vec!["--find", "--show"];
        arguments.extend(options);
        let name = file.to_string_lossy();
        arguments.push(&name);
        Ok(Self {
            path: must("losetup", arguments)?.trim_end().into(),
        })
    }

    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes devices of the partitions, also where the kernel itself cannot read the table. Returns `/dev/loopNpM`.
    ///
    /// # Errors
    /// What `partx` says.
    pub fn partition(&self, number: u32) -> Result<PathBuf> {
        must("partx", [Path::new("--update"), &self.path])?;
        Ok(format!("{}p{number}", self.path.display()).into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Without this, partitions made by partx would be there when the device is used next.
        let _ = must("partx", [Path::new("--delete"), &self.path]);
        if let Err(error) = must("losetup", [Path::new("--detach"), &self.path]) {
            eprintln!("{error:#}");
        }
    }
}

/// Detaches the devices of tests that were killed.
fn sweep() -> Result<()> {
    for line in must(
        "losetup",
        ["--list", "--noheadings", "--output", "NAME,BACK-FILE"],
    )?
    .lines()
    {
        let Some((device, file)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let process = file
            .split("/tmp/e2e/run-")
            .nth(1)
            .and_then(|rest| rest.split('-').next());
        if process.is_some_and(is_gone) {
            // Another test may be doing the same.
            let _ = must("losetup", ["--detach", device]);
        }
    }
    Ok(())
}
