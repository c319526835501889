//! The disks of a machine: what they are, and why one must not be written.

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::device::{BlockDevice, System};
use crate::units;

/// What a block device is that has no partition number, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    Disk,
    /// Made of a file, of memory or of other disks, or not made to be installed on.
    Special(&'static str),
}

/// Names of devices that are no disks to install on.
const SPECIAL: [(&str, &str); 15] = [
    ("loop", "loop device"),
    ("ram", "RAM disk"),
    ("zram", "compressed RAM"),
    ("sr", "optical drive"),
    ("fd", "floppy drive"),
    ("dm-", "device mapper"),
    ("md", "RAID"),
    ("nbd", "network block device"),
    ("drbd", "DRBD"),
    ("bcache", "bcache"),
    ("zd", "ZFS volume"),
    ("mtdblock", "flash memory"),
    ("ubiblock", "flash memory"),
    ("rbd", "Ceph volume"),
    ("pmem", "persistent memory"),
];

/// A disk of this machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The kernel's name.
    pub name: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub size: u64,
    /// Its model, as it says itself.
    pub model: Option<String>,
    /// Its serial number, as it says itself.
    pub serial: Option<String>,
    /// Its worldwide name, without the prefix that says of which kind it is, in lower case.
    pub wwn: Option<String>,
    /// Its names in `/dev/disk/by-id`.
    pub ids: Vec<String>,
    /// Whether it can be taken out, as an SD card can, or hangs on USB.
    pub is_removable: bool,
    /// Whether it has heads that move.
    pub is_rotational: bool,
    /// Whether nobody can write to it.
    pub is_read_only: bool,
    /// Number of its partitions that the kernel knows.
    pub partitions: usize,
    /// What uses it.
    pub users: Vec<String>,
}

impl Disk {
    fn new(device: &BlockDevice, system: &System) -> Self {
        let name = device.name();
        let path = system.dev.join(name.replace('!', "/"));
        let special = what_instead(&name);
        let text = |names: &[&str]| names.iter().find_map(|name| device.text(name));
        let mut users = device.users();
        let size = device.size().unwrap_or(0);
        // Opening these would make them move.
        let sleeps = matches!(special, Some("optical drive" | "floppy drive"));
        if users.is_empty() && size > 0 && !sleeps && is_held(&path) {
            users.push("another program has it open exclusively".into());
        }
        Self {
            kind: special.map_or(Kind::Disk, Kind::Special),
            size,
            model: text(&["device/model", "device/name"]),
            serial: text(&["device/serial", "serial"]).or_else(|| unit_serial(device)),
            wwn: text(&["wwid", "device/wwid"])
                .as_deref()
                .and_then(plain_wwn),
            ids: ids_of(&system.dev.join("disk/by-id"), &name),
            is_removable: device.number("removable") == Some(1)
                || device.is_usb()
                || device.text("device/type").as_deref() == Some("SD"),
            is_rotational: device.number("queue/rotational") == Some(1),
            is_read_only: device.is_read_only(),
            partitions: device.partitions().len(),
            users,
            name,
            path,
        }
    }

    /// Why nothing must be installed on it, whatever it is asked for.
    pub fn refusal(&self) -> Option<String> {
        if self.size == 0 {
            Some("has no medium".into())
        } else if self.is_read_only {
            Some("is read-only".into())
        } else if self.users.is_empty() {
            None
        } else {
            Some(format!("is in use ({})", self.users.join(", ")))
        }
    }

    /// Whether it is one of NVMe.
    pub fn is_nvme(&self) -> bool {
        self.name.starts_with("nvme")
    }

    /// Model, serial number and size, as far as they are known.
    pub fn title(&self) -> String {
        let mut title = self.model.clone().map(printable).unwrap_or_default();
        if let Some(serial) = &self.serial {
            let comma = if title.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(title, "{comma}serial {}", printable(serial.clone()));
        }
        let comma = if title.is_empty() { "" } else { ", " };
        let _ = write!(title, "{comma}{}", units::size(self.size));
        title
    }

    /// The title, and how many partitions there are.
    pub fn description(&self) -> String {
        let partitions = match self.partitions {
            0 => "no partitions".into(),
            1 => "1 partition".into(),
            count => format!("{count} partitions"),
        };
        format!("{}, {partitions}", self.title())
    }

    /// Everything that is known of it.
    pub fn fields(&self) -> Value {
        let special = match self.kind {
            Kind::Disk => None,
            Kind::Special(what) => Some(what),
        };
        json!({
            "path": self.path.display().to_string(), "special": special, "size_bytes": self.size, "model": self.model,
            "serial": self.serial, "wwn": self.wwn, "by_id": self.ids, "removable": self.is_removable,
            "rotational": self.is_rotational, "read_only": self.is_read_only, "partitions": self.partitions,
            "users": self.users,
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.title())
    }
}

impl System {
    /// All disks, sorted by name; drives without a medium and unused loop devices too.
    pub fn disks(&self) -> Vec<Disk> {
        let entries = fs::read_dir(self.sys.join("block")).into_iter().flatten();
        let mut disks: Vec<Disk> = entries
            .flatten()
            .map(|entry| self.device_at(entry.path()))
            // A path to a disk that has several; nobody can open it.
            .filter(|device| device.number("hidden") != Some(1))
            .map(|device| Disk::new(&device, self))
            .collect();
        disks.sort_by(|one, other| one.name.cmp(&other.name));
        disks
    }

    /// The disk that a path is, or is a partition of, and the partition's number.
    pub fn disk_at(&self, path: &Path) -> Option<(Disk, Option<u64>)> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.file_type().is_block_device() {
            return None;
        }
        let device = self.device(metadata.rdev());
        let partition = device.number("partition");
        let whole = device.whole().unwrap_or(device);
        Some((Disk::new(&whole, self), partition))
    }

    /// What a target is, for somebody who is to say whether it may be overwritten; `None` if it is no device.
    pub fn describe(&self, path: &Path) -> Option<String> {
        let (disk, partition) = self.disk_at(path)?;
        Some(match partition {
            Some(number) => format!("partition {number} of {disk}"),
            None => format!("{}: {}", disk.path.display(), disk.description()),
        })
    }

    /// The table of all disks that have a medium, and of all drives for one.
    pub fn table(&self) -> String {
        let mut lines =
            vec![["disk", "size", "kind", "model", "serial", "state"].map(String::from)];
        for disk in self.disks() {
            if disk.kind != Kind::Disk && disk.size == 0 {
                continue;
            }
            let or_dash = |text: &Option<String>| text.clone().map_or("-".into(), printable);
            lines.push([
                disk.path.display().to_string(),
                units::size(disk.size),
                disk.words(),
                or_dash(&disk.model),
                or_dash(&disk.serial),
                disk.refusal().unwrap_or_else(|| "free".into()),
            ]);
        }
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in &lines {
            let mut row = String::new();
            for (index, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                // Numbers stand on the right.
                row += &match index {
                    1 => format!("{cell:>width$}  "),
                    _ => format!("{cell:<width$}  "),
                };
            }
            text += row.trim_end();
            text.push('\n');
        }
        text
    }
}

impl Disk {
    /// The words of a selector that fit it, or what it is instead of a disk.
    fn words(&self) -> String {
        let mut words = Vec::new();
        match self.kind {
            Kind::Special(what) => words.push(what),
            Kind::Disk => {
                if self.is_nvme() {
                    words.push("nvme");
                }
                words.push(if self.is_rotational { "hdd" } else { "ssd" });
            }
        }
        if self.is_removable {
            words.push("removable");
        }
        words.join(",")
    }
}

/// What a device is, by its name, if it is no disk to install on.
fn what_instead(name: &str) -> Option<&'static str> {
    // Small disks by themselves, beside that of the same chip.
    if name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb")) {
        return Some("eMMC boot area");
    }
    let found = SPECIAL.iter().find(|(prefix, _)| name.starts_with(prefix));
    found.map(|(_, what)| *what)
}

/// The serial number of a SCSI or SATA disk: page 80h of its vital product data (SPC-4, 7.8.15), behind four bytes.
fn unit_serial(device: &BlockDevice) -> Option<String> {
    let page = device.bytes("device/vpd_pg80")?;
    let text = String::from_utf8_lossy(page.get(4..)?);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A worldwide name, however it is written.
pub(crate) fn plain_wwn(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let prefixes = ["naa.", "eui.", "wwn-", "nvme.", "uuid.", "t10."];
    let text = prefixes.iter().fold(text.as_str(), |text, prefix| {
        text.trim_start_matches(prefix)
    });
    let text = text.strip_prefix("0x").unwrap_or(text);
    (!text.is_empty()).then(|| text.to_owned())
}

fn ids_of(directory: &Path, name: &str) -> Vec<String> {
    let links = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut ids: Vec<String> = links
        .filter(|link| {
            let target = fs::read_link(link.path()).unwrap_or_default();
            target.file_name().is_some_and(|found| found == name)
        })
        .map(|link| link.file_name().to_string_lossy().into_owned())
        .collect();
    ids.sort_unstable();
    ids
}

/// Whether somebody has opened a device exclusively: a filesystem that is mounted elsewhere, or ZFS.
fn is_held(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_EXCL);
    let is_device = fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let opened = is_device.then(|| options.open(path));
    opened.is_some_and(|opened| {
        opened.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EBUSY))
    })
}

/// What a disk says of itself, without what could confuse a terminal.
fn printable(text: String) -> String {
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, "\u{fffd}"),
        false => text,
    }
}
