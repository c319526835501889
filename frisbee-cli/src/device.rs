//! What Linux tells about a block device: sector size, place on its disk, and who uses it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chunkfmt::relocation::PartitionPlace;
use nix::sys::stat::{major, minor};

/// A block device in `/sys/dev/block`.
pub struct BlockDevice {
    directory: PathBuf,
}

impl BlockDevice {
    /// The device with this number (`st_rdev`).
    pub fn of(device_number: u64) -> Self {
        let directory = format!(
            "/sys/dev/block/{}:{}",
            major(device_number),
            minor(device_number)
        );
        Self {
            directory: fs::canonicalize(&directory).unwrap_or_else(|_| directory.into()),
        }
    }

    /// Bytes of a logical sector; `None` if the kernel does not tell.
    pub fn sector_size(&self) -> Option<u32> {
        // A partition's queue is its disk's.
        [self.directory.clone(), self.directory.join("..")]
            .iter()
            .find_map(|directory| {
                fs::read_to_string(directory.join("queue/logical_block_size")).ok()
            })
            .and_then(|text| text.trim().parse().ok())
    }

    /// Whether the kernel lets nobody write to it. Opening it for writing succeeds all the same.
    pub fn is_read_only(&self) -> bool {
        fs::read_to_string(self.directory.join("ro")).is_ok_and(|text| text.trim() == "1")
    }

    /// Where the partition that the device is lies on its disk; `None` if it is none.
    pub fn partition(&self) -> Option<PartitionPlace> {
        let number = |name| {
            let text = fs::read_to_string(self.directory.join(name)).ok()?;
            text.trim().parse().ok()
        };
        // sysfs counts in units of 512 bytes, whatever the disk's sectors are.
        number("partition").and(Some(PartitionPlace {
            first_sector: number("start")?,
            sectors: number("size")?,
        }))
    }

    /// The device and its partitions.
    fn family(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let partitions = entries.filter(|path| path.join("partition").exists());
        partitions.chain([self.directory.clone()]).collect()
    }

    /// Everything that uses the device or one of its partitions, in words.
    pub fn users(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let mut users = Vec::new();
        for member in self.family() {
            let name = member
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let number = fs::read_to_string(member.join("dev")).unwrap_or_default();
            let node = format!("/dev/{name}");
            for mount in mounts.lines() {
                if let Some(place) = mount_point(mount, number.trim(), &node) {
                    users.push(format!("{name} is mounted on {place}"));
                }
            }
            if swaps
                .lines()
                .skip(1)
                .any(|line| line.split_whitespace().next() == Some(node.as_str()))
            {
                users.push(format!("{name} is swap space"));
            }
            for holder in fs::read_dir(member.join("holders"))
                .into_iter()
                .flatten()
                .flatten()
            {
                users.push(format!(
                    "{name} is held by {}",
                    holder.file_name().to_string_lossy()
                ));
            }
        }
        users
    }
}

/// The mount point of a line of mountinfo (proc(5)) if it is about this device.
///
/// Btrfs shows a number of its own, so the source is compared as well.
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
        assert_eq!(mount_point(ext4, "254:0", "/dev/other"), Some("/"));
        assert_eq!(mount_point(ext4, "254:1", "/dev/vda1"), None);
        assert_eq!(mount_point(btrfs, "8:17", "/dev/sdb1"), Some("/data"));
        assert_eq!(mount_point("nonsense", "8:17", "/dev/sdb1"), None);
    }
}
