//! Filesystems that are mounted to be used, by the kernel or through FUSE.

use anyhow::Result;
use nix::mount::MsFlags;

use super::aged::{self, Holds};
use super::{Driver, Tree, Volume};
use crate::canary::Canary;
use crate::command::must_line;
use crate::ext::Mount;
use crate::files;
use crate::loop_device::LoopDevice;

/// Who mounts it.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// The kernel: its name for the filesystem.
    Kernel(&'static str),
    /// A program.
    Fuse(&'static str),
}

/// A filesystem made and checked by programs that take a device as their last argument.
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    /// What imagezip calls it.
    pub kind: &'static str,
    /// The program that makes it, with arguments.
    pub make: &'static str,
    /// The program that checks it, with arguments.
    pub check: &'static str,
    /// Who mounts it.
    pub by: By,
    /// Options of mount.
    pub options: &'static str,
    /// What it can hold.
    pub holds: Holds,
    /// See [`Driver::slack`].
    pub slack: u64,
}

impl Mounted {
    fn mount(&self, device: &LoopDevice, flags: MsFlags) -> Result<Mount> {
        match self.by {
            By::Kernel(name) => Mount::of(name, device.path(), flags, self.options),
            By::Fuse(program) => {
                let write = if flags.contains(MsFlags::MS_RDONLY) {
                    "ro"
                } else {
                    "rw"
                };
                let options = format!("{write},{}", self.options);
                Mount::by(program, options.trim_end_matches(','), device.path())
            }
        }
    }
}

impl Driver for Mounted {
    fn kind(&self) -> &str {
        self.kind
    }

    fn tools(&self) -> Vec<&'static str> {
        let mut tools = vec![first_word(self.make), first_word(self.check)];
        if let By::Fuse(program) = self.by {
            tools.push(program);
        }
        tools
    }

    fn make(&self, volume: &Volume, dirt: &Canary) -> Result<()> {
        let device = volume.device()?;
        must_line(&format!("{} {}", self.make, device.path().display()))?;
        let mounted = self.mount(&device, MsFlags::empty())?;
        aged::live(mounted.path(), dirt, self.holds)
    }

    fn slack(&self) -> u64 {
        self.slack
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        let device = volume.read_only()?;
        must_line(&format!("{} {}", self.check, device.path().display()))?;
        Ok(())
    }

    fn tree(&self, volume: &Volume) -> Result<Tree> {
        let device = volume.read_only()?;
        files::tree(self.mount(&device, MsFlags::MS_RDONLY)?.path())
    }

    fn free(&self, volume: &Volume) -> Result<u64> {
        let device = volume.read_only()?;
        aged::free(self.mount(&device, MsFlags::MS_RDONLY)?.path())
    }
}

fn first_word(line: &'static str) -> &'static str {
    line.split(' ').next().unwrap_or_default()
}
