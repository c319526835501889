//! Ext filesystems as others see them: free blocks by dumpe2fs, soundness by e2fsck, files by the kernel or debugfs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::command::{must, run, system};
use crate::files::{self, Entry};
use crate::loop_device::LoopDevice;
use crate::{need, scratch};

/// An ext filesystem in a file.
#[derive(Clone, Debug)]
pub struct Ext {
    /// The file, as a disk.
    pub disk: PathBuf,
    /// Where in it the filesystem begins, in bytes.
    pub offset: u64,
}

impl Ext {
    /// The same place on another disk.
    #[must_use]
    pub fn on(&self, disk: &Path) -> Self {
        Self {
            disk: disk.into(),
            offset: self.offset,
        }
    }

    /// The filesystem's name for e2fsprogs.
    pub fn name(&self) -> String {
        format!("{}?offset={}", self.disk.display(), self.offset)
    }

    /// The free space by dumpe2fs, in bytes of the disk. Not for filesystems with clusters.
    ///
    /// # Errors
    /// If dumpe2fs does not understand the filesystem.
    pub fn free(&self) -> Result<Vec<Range<u64>>> {
        let text = must("dumpe2fs", [self.name()])?;
        let size = text
            .lines()
            .find_map(|line| line.strip_prefix("Block size:"));
        let size: u64 = size.context("dumpe2fs: no block size")?.trim().parse()?;
        let mut found: Vec<Range<u64>> = Vec::new();
        // Indented: one list for each group. At the start of a line it is the number of all.
        for list in text
            .lines()
            .filter_map(|line| line.strip_prefix("  Free blocks: "))
        {
            for range in list.split(", ").filter(|range| !range.is_empty()) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
                let range = self.offset + first * size..self.offset + (last + 1) * size;
                match found.last_mut() {
                    Some(before) if before.end == range.start => before.end = range.end,
                    _ => found.push(range),
                }
            }
        }
        Ok(found)
    }

    /// Checks the filesystem with e2fsck, which changes nothing.
    ///
    /// # Errors
    /// What e2fsck found.
    pub fn check(&self) -> Result<()> {
        let mut command = system("e2fsck")?;
        command.args(["-f", "-n", &self.name()]);
        run(command)?.success()?;
        Ok(())
    }

    /// All files: through the kernel if it can be asked, else by debugfs.
    ///
    /// # Errors
    /// If the filesystem cannot be read.
    pub fn tree(&self) -> Result<BTreeMap<PathBuf, Entry>> {
        if need::is_root() && Path::new("/dev/loop-control").exists() {
            let device = LoopDevice::read_only(&self.disk, self.offset)?;
            let mounted = Mount::new(device.path(), MsFlags::MS_RDONLY)?;
            return files::tree(mounted.path());
        }
        let directory = scratch::directory()?;
        let place = directory.path().display();
        // debugfs ends well whatever happens, and complains where it may not change owners.
        must(
            "debugfs",
            ["-R", &format!("rdump / \"{place}\""), &self.name()],
        )?;
        files::tree(directory.path())
    }

    /// Checks that the filesystem is sound and holds exactly the files of `directory`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn holds(&self, directory: &Path) -> Result<()> {
        self.check()?;
        let expected = files::tree(directory)?;
        ensure!(!expected.is_empty(), "{} is empty", directory.display());
        files::same_tree(&expected, &self.tree()?).with_context(|| self.name())
    }
}

/// A mounted filesystem; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    place: TempDir,
}

impl Mount {
    /// Mounts a device with an ext filesystem in a directory of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(device: &Path, flags: MsFlags) -> Result<Self> {
        Self::of("ext4", device, flags, "")
    }

    /// Mounts a device with a filesystem of this type, with options of that type, in a directory of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(kind: &str, device: &Path, flags: MsFlags, options: &str) -> Result<Self> {
        let place = scratch::directory()?;
        mount(Some(device), place.path(), Some(kind), flags, Some(options))
            .with_context(|| format!("mounting {} as {kind}", device.display()))?;
        Ok(Self { place })
    }

    /// Mounts by a program of its own (FUSE) which takes options, device and directory.
    ///
    /// # Errors
    /// What the program says.
    pub fn by(program: &str, options: &str, device: &Path) -> Result<Self> {
        let place = scratch::directory()?;
        let mut command = system(program)?;
        command.args(["-o", options]).arg(device).arg(place.path());
        run(command)?.success()?;
        Ok(Self { place })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.place.path(), MntFlags::empty()) {
            eprintln!(
                "{}: cannot be unmounted: {error}",
                self.place.path().display()
            );
        }
    }
}
