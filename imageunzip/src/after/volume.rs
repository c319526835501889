//! A partition of the target as a block device, whether the kernel knows it or not.
//!
//! A loop device over the whole disk's file or node works for disk images as for disks, and does not depend on the
//! kernel having read the new table, or on udev, which an initramfs may lack.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use diskmap::ReadAt;
use diskmap::edit::Place;
use frisbee_cli::Failure;

use super::{failed, tool};

/// A partition of the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume<'a> {
    pub(super) target: &'a Path,
    pub(super) place: &'a Place,
    pub(super) sector_size: u32,
}

impl Volume<'_> {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        match self.place.number {
            0 => "the disk".into(),
            number => format!("partition {number}"),
        }
    }

    /// Its first byte.
    pub(super) fn offset(&self) -> u64 {
        let size = u64::from(self.sector_size);
        self.place.extent.first.saturating_mul(size)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> u64 {
        let size = u64::from(self.sector_size);
        self.place.extent.count.saturating_mul(size)
    }

    /// The volume as a block device.
    pub(super) fn attach(&self) -> Result<Device, Failure> {
        let (offset, bytes) = (self.offset().to_string(), self.bytes().to_string());
        let size = self.sector_size.to_string();
        let mut arguments = vec!["--find", "--show", "--offset", &offset];
        arguments.extend(["--sizelimit", &bytes, "--sector-size", &size]);
        let target = self.target.to_string_lossy();
        arguments.push(&target);
        let path = PathBuf::from(tool::run("losetup", arguments, &[0])?);
        let file = File::open(&path);
        // Detaching is put off until the last user closes the device: nothing stays if this program is killed.
        let detached = tool::run("losetup", [Path::new("--detach"), &path], &[0]);
        let file = file.map_err(|error| failed(format!("{}: {error}", path.display())))?;
        detached?;
        Ok(Device { path, file })
    }
}

/// A block device that is there as long as this is.
pub(super) struct Device {
    path: PathBuf,
    file: File,
}

impl Device {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends its use: everything is on the target.
    pub(super) fn close(self) -> Result<(), Failure> {
        self.file
            .sync_all()
            .map_err(|error| failed(format!("{}: flushing: {error}", self.path.display())))
    }
}

/// The target, to look what is on it.
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}
