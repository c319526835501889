//! Filesystems of the target, mounted where nobody else sees them.

use std::path::Path;

use frisbee_cli::Failure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::syncfs;
use tempfile::TempDir;

use super::failed;
use super::filesystem::Kind;
use super::volume::Device;

/// Gives this thread mounts of its own: when it and the programs that it starts have ended, all are gone.
pub(super) fn isolate() -> Result<(), Failure> {
    let error = |error| failed(format!("mounts of its own are not allowed: {error}"));
    unshare(CloneFlags::CLONE_NEWNS).map_err(error)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(error)
}

/// A mounted filesystem; unmounted when dropped.
pub(super) struct Mount {
    place: Option<TempDir>,
    writable: bool,
}

impl Mount {
    /// Mounts for looking.
    pub(super) fn read_only(
        device: &Device,
        kind: Kind,
        subvolume: Option<&str>,
    ) -> Result<Self, Failure> {
        Self::new(device, kind, subvolume, MsFlags::MS_RDONLY)
    }

    /// Mounts for changes.
    pub(super) fn writable(
        device: &Device,
        kind: Kind,
        subvolume: Option<&str>,
    ) -> Result<Self, Failure> {
        Self::new(device, kind, subvolume, MsFlags::empty())
    }

    fn new(
        device: &Device,
        kind: Kind,
        subvolume: Option<&str>,
        flags: MsFlags,
    ) -> Result<Self, Failure> {
        let place = tempfile::Builder::new()
            .prefix("frisbee-root-")
            .tempdir()
            .map_err(|error| failed(format!("a directory to mount on cannot be made: {error}")))?;
        let name = kind.name();
        let (kind, options) = kind
            .mount()
            .ok_or_else(|| failed(format!("{name} cannot be mounted")))?;
        let options = match subvolume {
            Some(subvolume) => format!("subvol={subvolume}"),
            None => options.into(),
        };
        // Nothing of the image becomes a device or a program with privileges here.
        let safe = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
        mount(
            Some(device.path()),
            place.path(),
            Some(kind),
            flags | safe,
            Some(options.as_str()),
        )
        .map_err(|error| failed(format!("mounting as {kind}: {error}")))?;
        Ok(Self {
            place: Some(place),
            writable: !flags.contains(MsFlags::MS_RDONLY),
        })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        self.place.as_ref().map_or(Path::new("/"), TempDir::path)
    }

    /// Writes everything to the device and unmounts.
    pub(super) fn close(mut self) -> Result<(), Failure> {
        if self.writable {
            let directory = std::fs::File::open(self.path());
            directory
                .and_then(|directory| Ok(syncfs(&directory)?))
                .map_err(|error| failed(format!("flushing a filesystem: {error}")))?;
        }
        let unmounted = umount2(self.path(), MntFlags::empty());
        if unmounted.is_ok() {
            self.place = None;
        }
        unmounted.map_err(|error| failed(format!("unmounting: {error}")))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            // Whoever still uses it keeps it until then.
            if umount2(place.path(), MntFlags::MNT_DETACH).is_err() {
                // Removing the directory would remove what is mounted there.
                let _ = place.keep();
            }
        }
    }
}
