//! What Linux tells about a block device: sector size, place on its disk, and who uses it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chunkfmt::relocation::PartitionPlace;
use nix::sys::stat::{major, minor};

/// How many devices may stand on each other: LVM on dm-crypt on RAID on multipath are four.
const DEPTH_MAX: usize = 8;

/// Where the kernel tells about its devices.
#[derive(Clone, Debug)]
pub struct System {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) dev: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl System {
    /// The system whose `/sys`, `/proc` and `/dev` are in this directory.
    pub fn below(root: &Path) -> Self {
        Self {
            sys: root.join("sys"),
            proc: root.join("proc"),
            dev: root.join("dev"),
        }
    }

    /// The device with this number (`st_rdev`).
    pub fn device(&self, device_number: u64) -> BlockDevice {
        let (major, minor) = (major(device_number), minor(device_number));
        self.device_at(self.sys.join(format!("dev/block/{major}:{minor}")))
    }

    /// The disk or partition in a directory of sysfs.
    pub(crate) fn device_at(&self, directory: PathBuf) -> BlockDevice {
        BlockDevice {
            directory: fs::canonicalize(&directory).unwrap_or(directory),
            system: self.clone(),
        }
    }
}

/// A block device in sysfs.
#[derive(Clone, Debug)]
pub struct BlockDevice {
    directory: PathBuf,
    system: System,
}

/// What is mounted, swapped to and held together, at one moment.
struct Uses {
    mounts: String,
    swaps: String,
    /// Names of devices that belong to mounted filesystems of Btrfs.
    btrfs: Vec<String>,
}

impl BlockDevice {
    /// The device of this machine with this number (`st_rdev`).
    pub fn of(device_number: u64) -> Self {
        System::default().device(device_number)
    }

    /// The kernel's name for it: `sda`, `nvme0n1p2`.
    pub fn name(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The text in a file of sysfs, if it is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.directory.join(name)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The number in a file of sysfs.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Bytes in a file of sysfs.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.directory.join(name)).ok()
    }

    /// Whether it hangs on a USB port.
    pub(crate) fn is_usb(&self) -> bool {
        let is_port = |part: &OsStr| part.to_string_lossy().starts_with("usb");
        self.directory.iter().any(is_port)
    }

    /// The disk that the device is a partition of.
    pub fn whole(&self) -> Option<Self> {
        self.number("partition")?;
        Some(Self {
            directory: self.directory.parent()?.into(),
            system: self.system.clone(),
        })
    }

    /// Bytes of a logical sector; `None` if the kernel does not tell.
    pub fn sector_size(&self) -> Option<u32> {
        // A partition's queue is its disk's.
        let size = "queue/logical_block_size";
        let found = self.number(size).or_else(|| self.whole()?.number(size));
        found.and_then(|size| u32::try_from(size).ok())
    }

    /// Its bytes; `None` if the kernel does not tell.
    pub fn size(&self) -> Option<u64> {
        // sysfs counts in units of 512 bytes, whatever the disk's sectors are.
        self.number("size")?.checked_mul(512)
    }

    /// Whether the kernel lets nobody write to it. Opening it for writing succeeds all the same.
    pub fn is_read_only(&self) -> bool {
        self.number("ro") == Some(1)
    }

    /// Where the partition that the device is lies on its disk; `None` if it is none.
    pub fn partition(&self) -> Option<PartitionPlace> {
        // sysfs counts in units of 512 bytes, whatever the disk's sectors are.
        self.number("partition").and(Some(PartitionPlace {
            first_sector: self.number("start")?,
            sectors: self.number("size")?,
        }))
    }

    /// Its partitions.
    pub fn partitions(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        let mut found: Vec<_> = entries
            .flatten()
            .map(|entry| Self {
                directory: entry.path(),
                system: self.system.clone(),
            })
            .filter(|entry| entry.number("partition").is_some())
            .collect();
        found.sort_by_key(|entry| entry.number("partition"));
        found
    }

    /// Everything that uses the device, one of its partitions, or the disk that it is a partition of, in words. What
    /// holds it without saying so, as ZFS does, is found by opening it exclusively.
    pub fn users(&self) -> Vec<String> {
        let system = &self.system;
        let read = |name| fs::read_to_string(system.proc.join(name)).unwrap_or_default();
        let uses = Uses {
            mounts: read("self/mountinfo"),
            swaps: read("swaps"),
            btrfs: btrfs_devices(&system.sys.join("fs/btrfs")),
        };
        let mut users = Vec::new();
        let mut family = vec![self.clone()];
        family.extend(self.partitions());
        family.extend(self.whole());
        for member in family {
            member.add_users(&uses, DEPTH_MAX, &mut users);
        }
        users
    }

    fn add_users(&self, uses: &Uses, depth: usize, users: &mut Vec<String>) {
        let name = self.name();
        let number = self.text("dev").unwrap_or_default();
        let node = format!("/dev/{name}");
        let mut mounted = false;
        for mount in uses.mounts.lines() {
            if let Some(place) = mount_point(mount, &number, &node) {
                mounted = true;
                add(users, format!("{name} is mounted on {place}"));
            }
        }
        if !mounted && uses.btrfs.contains(&name) {
            add(
                users,
                format!("{name} is part of a mounted Btrfs filesystem"),
            );
        }
        let mut swaps = uses.swaps.lines().skip(1);
        if swaps.any(|line| line.split_whitespace().next() == Some(node.as_str())) {
            add(users, format!("{name} is swap space"));
        }
        let holders = fs::read_dir(self.directory.join("holders"));
        for holder in holders.into_iter().flatten().flatten() {
            let holder_name = holder.file_name();
            let place = self.system.sys.join("class/block").join(&holder_name);
            let place = match place.exists() {
                true => place,
                false => holder.path(),
            };
            let above = self.system.device_at(place);
            let what = above.kind_of_holder().map(|what| format!(" ({what})"));
            add(
                users,
                format!(
                    "{name} is held by {}{}",
                    holder_name.to_string_lossy(),
                    what.unwrap_or_default()
                ),
            );
            if depth > 0 {
                above.add_users(uses, depth - 1, users);
            }
        }
    }

    /// What a device that stands on others is.
    fn kind_of_holder(&self) -> Option<String> {
        if let Some(name) = self.text("dm/name") {
            let id = self.text("dm/uuid").unwrap_or_default();
            let kinds = [
                ("LVM-", "LVM volume"),
                ("CRYPT-", "dm-crypt"),
                ("mpath-", "multipath"),
                ("DMRAID-", "dmraid"),
            ];
            let kind = kinds.iter().find(|(prefix, _)| id.starts_with(prefix));
            let kind = kind.map_or("device mapper", |(_, kind)| kind);
            return Some(format!("{kind} {name}"));
        }
        if let Some(level) = self.text("md/level") {
            return Some(format!("RAID, {level}"));
        }
        let name = self.name();
        let kinds = [("md", "RAID"), ("bcache", "bcache"), ("drbd", "DRBD")];
        let kind = kinds.iter().find(|(prefix, _)| name.starts_with(prefix));
        kind.map(|(_, kind)| (*kind).to_owned())
    }
}

/// Adds what several ways lead to only once.
fn add(users: &mut Vec<String>, user: String) {
    if !users.contains(&user) {
        users.push(user);
    }
}

/// The devices of mounted filesystems of Btrfs, of which mountinfo shows one only.
fn btrfs_devices(place: &Path) -> Vec<String> {
    let filesystems = fs::read_dir(place).into_iter().flatten().flatten();
    let devices = filesystems.flat_map(|entry| {
        let devices = fs::read_dir(entry.path().join("devices"));
        devices.into_iter().flatten().flatten()
    });
    devices
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The mount point of a line of mountinfo (proc(5)) if it is about this device.
///
/// The number holds whatever the source is called (`/dev/root`, a link). Btrfs shows a number of its own, so the source
/// is compared as well.
fn mount_point<'a>(line: &'a str, number: &str, node: &str) -> Option<&'a str> {
    let fields: Vec<&str> = line.split(' ').collect();
    let separator = fields.iter().position(|field| *field == "-")?;
    let source = fields.get(separator + 2)?;
    let same = (!number.is_empty() && *fields.get(2)? == number) || *source == node;
    same.then(|| fields.get(4).copied()).flatten()
}

/// The loop device that has the file `path` as its disk, if there is one.
pub fn loop_device_of(path: &Path) -> Option<String> {
    let wanted = fs::metadata(path).ok()?;
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let found = fs::metadata(backing.trim_end());
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())) {
            return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines() {
        let ext4 = "29 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw";
        let btrfs = "40 29 0:35 / /data rw - btrfs /dev/sdb1 rw,space_cache=v2";
        let root = "29 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw";
        assert_eq!(mount_point(ext4, "254:0", "/dev/other"), Some("/"));
        assert_eq!(mount_point(ext4, "254:1", "/dev/vda1"), None);
        assert_eq!(mount_point(btrfs, "8:17", "/dev/sdb1"), Some("/data"));
        assert_eq!(mount_point(root, "8:2", "/dev/sda2"), Some("/"));
        assert_eq!(mount_point("nonsense", "8:17", "/dev/sdb1"), None);
    }
}
