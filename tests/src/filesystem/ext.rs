//! Ext filesystems: used by the kernel, or with features that a kernel may not have, by debugfs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use nix::mount::MsFlags;

use super::aged::{self, Holds};
use super::{Driver, Tree, Volume};
use crate::canary::Canary;
use crate::command::{must, must_line, run, system};
use crate::ext::{Ext, Mount};
use crate::{files, scratch};

/// Made by mke2fs, used by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    /// The first argument of `-t`, and what the map calls it.
    pub version: &'static str,
    /// More arguments of mke2fs.
    pub mke2fs: &'static str,
    /// Options of mount.
    pub options: &'static str,
}

/// As [`Mounted`], but never mounted: filled by mke2fs and debugfs.
#[derive(Clone, Copy, Debug)]
pub struct Offline {
    /// The first argument of `-t`, and what the map calls it.
    pub version: &'static str,
    /// More arguments of mke2fs.
    pub mke2fs: &'static str,
    /// Arguments of tune2fs afterwards; may be empty.
    pub tune2fs: &'static str,
}

fn ext(volume: &Volume) -> Ext {
    Ext {
        disk: volume.disk.clone(),
        offset: volume.offset,
    }
}

/// Free blocks of the superblock.
fn free(volume: &Volume) -> Result<u64> {
    let text = must("dumpe2fs", ["-h", &ext(volume).name()])?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.with_context(|| format!("dumpe2fs says nothing of {name}"))?
            .trim()
            .parse::<u64>()
            .context("dumpe2fs")
    };
    Ok(number("Free blocks:")? * number("Block size:")?)
}

impl Driver for Mounted {
    fn kind(&self) -> &str {
        self.version
    }

    fn tools(&self) -> Vec<&'static str> {
        vec!["mke2fs", "e2fsck", "dumpe2fs"]
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let device = volume.device()?;
        let place = device.path().display();
        must_line(&format!(
            "mke2fs -q -F -t {} {} {place}",
            self.version, self.mke2fs
        ))?;
        let mount = |options| Mount::of("ext4", device.path(), MsFlags::empty(), options);
        aged::live(mount(self.options)?.path(), dirt, Holds::Everything)?;
        if !self.options.is_empty() {
            // What was encrypted is not recognised.
            aged::litter(mount("")?.path(), dirt)?;
        }
        Ok(())
    }

    fn slack(&self) -> u64 {
        // Each file has a last cluster.
        if self.mke2fs.contains("bigalloc") {
            2000 * 8192
        } else {
            0
        }
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        ext(volume).check()
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let device = volume.read_only()?;
        let mounted = Mount::of("ext4", device.path(), MsFlags::MS_RDONLY, self.options)?;
        files::tree(mounted.path())
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        free(volume)
    }
}

impl Driver for Offline {
    fn kind(&self) -> &str {
        self.version
    }

    fn tools(&self) -> Vec<&'static str> {
        vec!["mke2fs", "e2fsck", "dumpe2fs", "debugfs", "tune2fs"]
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let device = volume.device()?;
        let place = device.path().display();
        let content = aged::content(Holds::Everything)?;
        must_line(&format!(
            "mke2fs -q -F -t {} {} -d {} {place}",
            self.version,
            self.mke2fs,
            content.display()
        ))?;
        drop(device);
        let directory = scratch::directory()?;
        let (litter, script) = (
            directory.path().join("litter"),
            directory.path().join("script"),
        );
        let piece = usize::try_from(free(volume)? * 9 / 10 / 30)?;
        fs::write(&litter, dirt.dirt(piece))?;
        let mut commands = String::new();
        for number in 0..30 {
            writeln!(commands, "write {} litter-{number}", litter.display())?;
        }
        for (path, entry) in files::tree(&content)?.iter().step_by(5) {
            let odd = path.as_os_str().as_bytes().contains(&b'"');
            if entry.content.is_some() && !odd {
                writeln!(commands, "rm \"/{}\"", path.display())?;
            }
        }
        for number in (0..30).step_by(2).chain((1..30).step_by(2)) {
            writeln!(commands, "rm litter-{number}")?;
        }
        fs::write(&script, commands)?;
        let script = script.to_string_lossy();
        must("debugfs", ["-w", "-f", &script, &ext(volume).name()])?;
        if !self.tune2fs.is_empty() {
            let device = volume.device()?;
            let place = device.path().display();
            must_line(&format!("tune2fs {} {place}", self.tune2fs))?;
        }
        Ok(())
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        ext(volume).check()
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let directory = scratch::directory()?;
        let place = directory.path().display();
        let mut debugfs = system("debugfs")?;
        debugfs.args(["-R", &format!("rdump / \"{place}\""), &ext(volume).name()]);
        run(debugfs)?.success()?;
        files::tree(directory.path())
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        free(volume)
    }
}
