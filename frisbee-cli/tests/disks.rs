//! Disks of machines that were made up: what is known of them, who uses them, and which one a selector means.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use frisbee_cli::device::System;
use frisbee_cli::disks::{Disk, Kind};
use frisbee_cli::selector::Selector;
use tempfile::TempDir;

const SECTOR: u64 = 512;
const GIB: u64 = 1 << 30;

/// A directory with the `/sys`, `/proc` and `/dev` of a machine.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for directory in [
            "sys/block",
            "sys/class/block",
            "sys/dev/block",
            "dev/disk/by-id",
            "proc/self",
        ] {
            fs::create_dir_all(machine.0.path().join(directory)).unwrap();
        }
        machine.write("proc/self/mountinfo", "");
        machine.write("proc/swaps", "Filename Type Size Used Priority\n");
        machine
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A disk at a place below `/sys/devices`.
    fn disk(&self, place: &str, number: &str, bytes: u64, files: &[(&str, &str)]) {
        let device = format!("sys/devices/{place}");
        let name = Path::new(place).file_name().unwrap().to_str().unwrap();
        let size = (bytes / SECTOR).to_string();
        let usual = [
            ("size", size.as_str()),
            ("dev", number),
            ("ro", "0"),
            ("removable", "0"),
            ("queue/rotational", "0"),
            ("queue/logical_block_size", "512"),
        ];
        for (file, text) in usual.iter().chain(files) {
            self.write(&format!("{device}/{file}"), &format!("{text}\n"));
        }
        self.link(name, number, &device);
        symlink(
            self.0.path().join(&device),
            self.0.path().join("sys/block").join(name),
        )
        .unwrap();
    }

    fn partition(&self, disk: &str, name: &str, number: &str, index: u32) {
        let device = format!("sys/devices/{disk}/{name}");
        let text = index.to_string();
        for (file, text) in [
            ("partition", text.as_str()),
            ("dev", number),
            ("size", "2048"),
            ("start", "2048"),
        ] {
            self.write(&format!("{device}/{file}"), &format!("{text}\n"));
        }
        self.link(name, number, &device);
    }

    fn link(&self, name: &str, number: &str, device: &str) {
        let root = self.0.path();
        symlink(root.join(device), root.join("sys/class/block").join(name)).unwrap();
        symlink(root.join(device), root.join("sys/dev/block").join(number)).unwrap();
    }

    /// Says that a device is held by another.
    fn hold(&self, device: &str, holder: &str) {
        let holders = self
            .0
            .path()
            .join("sys/devices")
            .join(device)
            .join("holders");
        fs::create_dir_all(&holders).unwrap();
        symlink(
            self.0.path().join("sys/class/block").join(holder),
            holders.join(holder),
        )
        .unwrap();
    }

    fn disks(&self) -> Vec<Disk> {
        System::below(self.0.path()).disks()
    }

    fn users(&self, name: &str) -> String {
        let disks = self.disks();
        disks
            .iter()
            .find(|disk| disk.name == name)
            .unwrap()
            .users
            .join(", ")
    }

    fn choose(&self, selector: &str) -> Result<String, String> {
        let selector: Selector = selector.parse().unwrap();
        let disks = self.disks();
        let chosen = selector.choose(&disks);
        chosen.map(|disk| disk.name.clone()).map_err(|failure| {
            assert_eq!(failure.exit as u8, 5);
            failure.message
        })
    }
}

/// A node: an NVMe disk, two alike SATA disks, a large one that turns, a USB stick, an optical drive, a loop device.
fn node() -> Machine {
    let machine = Machine::new();
    machine.disk(
        "pci0/nvme/nvme0/nvme0n1",
        "259:0",
        512 * GIB,
        &[
            ("device/model", "Samsung SSD 980 PRO 500GB              "),
            ("device/serial", "S5GXNX0T123456      "),
            ("wwid", "eui.002538bb21b0a1c2"),
        ],
    );
    for (name, number, serial) in [("sda", "8:0", "AAA-1"), ("sdb", "8:16", "AAA-2")] {
        machine.disk(
            &format!("pci0/ata1/{name}"),
            number,
            240 * GIB,
            &[
                ("device/model", "INTEL SSDSC2BB24"),
                ("device/wwid", &format!("naa.55cd2e404b{serial}")),
            ],
        );
        // Page code, and the length of what follows.
        let page = format!("\0\u{0}\0\u{14}{serial:>20}");
        fs::write(
            machine
                .0
                .path()
                .join(format!("sys/devices/pci0/ata1/{name}/device/vpd_pg80")),
            page,
        )
        .unwrap();
    }
    machine.disk(
        "pci0/ata1/sdc",
        "8:32",
        4096 * GIB,
        &[("queue/rotational", "1"), ("device/model", "WDC WD40EFRX")],
    );
    machine.disk(
        "pci0/usb1/1-1/sdd",
        "8:48",
        16 * GIB,
        &[("removable", "1"), ("device/model", "DataTraveler 3.0")],
    );
    machine.disk(
        "pci0/usb1/1-2/sde",
        "8:64",
        1024 * GIB,
        &[("device/model", "Elements")],
    );
    machine.disk(
        "pci0/ata2/sr0",
        "11:0",
        GIB,
        &[("removable", "1"), ("ro", "1")],
    );
    machine.disk("virtual/block/loop0", "7:0", 100 * GIB, &[]);
    machine.disk("virtual/block/loop1", "7:1", 0, &[]);
    machine.disk("virtual/block/zram0", "254:0", GIB, &[]);
    for (link, name) in [
        ("ata-INTEL_SSDSC2BB24_AAA-2", "sdb"),
        ("wwn-0x55cd2e404baaa-2", "sdb"),
        ("usb-Elements", "sde"),
    ] {
        symlink(
            format!("../../{name}"),
            machine.0.path().join("dev/disk/by-id").join(link),
        )
        .unwrap();
    }
    machine
}

#[test]
fn what_is_known() {
    let machine = node();
    let disks = machine.disks();
    let find = |name: &str| disks.iter().find(|disk| disk.name == name).unwrap();
    let nvme = find("nvme0n1");
    assert_eq!(
        nvme.title(),
        "Samsung SSD 980 PRO 500GB, serial S5GXNX0T123456, 512.0 GiB"
    );
    assert_eq!(nvme.wwn.as_deref(), Some("002538bb21b0a1c2"));
    assert!(nvme.is_nvme() && !nvme.is_removable && nvme.refusal().is_none());
    let sata = find("sdb");
    assert_eq!(sata.serial.as_deref(), Some("AAA-2"));
    assert_eq!(
        sata.ids,
        ["ata-INTEL_SSDSC2BB24_AAA-2", "wwn-0x55cd2e404baaa-2"]
    );
    assert!(find("sdc").is_rotational && !sata.is_rotational);
    assert!(find("sdd").is_removable && find("sde").is_removable);
    assert!(matches!(find("loop0").kind, Kind::Special(_)));
    assert_eq!(find("sdc").path, machine.0.path().join("dev/sdc"));
}

#[test]
fn what_is_meant() {
    let machine = node();
    for (selector, name) in [
        ("nvme", "nvme0n1"),
        ("nvme,only", "nvme0n1"),
        ("serial=AAA-2", "sdb"),
        ("serial=S5GXNX0T123456", "nvme0n1"),
        ("wwn=0x55cd2e404bAAA-2", "sdb"),
        ("wwn=naa.55cd2e404baaa-1", "sda"),
        ("wwn=eui.002538bb21b0a1c2", "nvme0n1"),
        ("by-id=ata-INTEL*2", "sdb"),
        ("by-id=usb-Elements", "sde"),
        ("model=samsung*", "nvme0n1"),
        ("hdd", "sdc"),
        ("largest", "sdc"),
        ("ssd,largest", "nvme0n1"),
        ("removable,smallest", "sdd"),
        ("removable,largest", "sde"),
        ("name=sda", "sda"),
        ("name=loop0", "loop0"),
        (" ssd , model=*PRO* ", "nvme0n1"),
    ] {
        assert_eq!(machine.choose(selector).as_deref(), Ok(name), "{selector}");
    }
}

#[test]
fn what_could_be_two_or_none() {
    let machine = node();
    for (selector, words) in [
        // Two alike; the stick and the loop device are smaller.
        ("smallest", &["could mean", "sda", "sdb", "AAA-1"][..]),
        ("only", &["could mean", "nvme0n1", "sdc"]),
        ("ssd", &["could mean"]),
        ("model=INTEL*", &["could mean", "AAA-2"]),
        (
            "serial=AAA",
            &["no disk is meant", "AAA-1", "is not serial=AAA"],
        ),
        ("serial=aaa-1", &["no disk is meant"]),
        ("model=DataTraveler*", &["is removable"]),
        ("name=*", &["could mean"]),
        ("name=zram*,removable", &["no disk is meant"]),
        ("name=sr0", &["is read-only"]),
        (
            "hdd,nvme",
            &["no disk is meant", "is not nvme", "is not hdd"],
        ),
        ("name=loop1", &["no disk is meant"]),
    ] {
        let message = machine.choose(selector).unwrap_err();
        for word in words {
            assert!(
                message.contains(word),
                "{selector}: {word:?} is not in {message}"
            );
        }
    }
    let message = Machine::new().choose("only").unwrap_err();
    assert!(message.contains("there is no disk"), "{message}");
}

/// Who uses a disk, named; and then it is not chosen.
#[test]
fn who_uses_it() {
    let machine = node();
    machine.partition("pci0/ata1/sda", "sda1", "8:1", 1);
    machine.partition("pci0/ata1/sda", "sda2", "8:2", 2);
    machine.partition("pci0/nvme/nvme0/nvme0n1", "nvme0n1p3", "259:3", 3);
    // The root of the running system, whatever it is called, and a Btrfs of two disks of which the second is not shown.
    machine.write(
        "proc/self/mountinfo",
        "29 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
         40 29 0:35 / /data rw - btrfs /dev/sdx1 rw\n\
         41 29 253:1 / /home rw - xfs /dev/mapper/vg-home rw\n\
         42 29 0:40 / /run/overlay rw - overlay overlay rw,lowerdir=/ro\n",
    );
    machine.write("sys/fs/btrfs/8d0c/devices/sdc/size", "1");
    machine.write(
        "proc/swaps",
        "Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n",
    );
    // LVM on dm-crypt on a partition.
    machine.disk(
        "virtual/block/dm-0",
        "253:0",
        GIB,
        &[("dm/name", "luks-1"), ("dm/uuid", "CRYPT-LUKS2-1-luks-1")],
    );
    machine.disk(
        "virtual/block/dm-1",
        "253:1",
        GIB,
        &[("dm/name", "vg-home"), ("dm/uuid", "LVM-abc")],
    );
    machine.hold("pci0/nvme/nvme0/nvme0n1/nvme0n1p3", "dm-0");
    machine.hold("virtual/block/dm-0", "dm-1");
    machine.disk(
        "virtual/block/md127",
        "9:127",
        GIB,
        &[("md/level", "raid1")],
    );
    machine.hold("pci0/ata1/sdb", "md127");

    let sda = machine.users("sda");
    assert!(
        sda.contains("sda1 is swap space") && sda.contains("sda2 is mounted on /"),
        "{sda}"
    );
    let nvme = machine.users("nvme0n1");
    for word in [
        "nvme0n1p3 is held by dm-0 (dm-crypt luks-1)",
        "dm-0 is held by dm-1 (LVM volume vg-home)",
        "mounted on /home",
    ] {
        assert!(nvme.contains(word), "{nvme}");
    }
    assert_eq!(machine.users("sdb"), "sdb is held by md127 (RAID, raid1)");
    assert_eq!(
        machine.users("sdc"),
        "sdc is part of a mounted Btrfs filesystem"
    );
    assert_eq!(machine.users("sdd"), "");
    let message = machine.choose("only").unwrap_err();
    assert!(
        message.contains("no disk is meant") && message.contains("vg-home"),
        "{message}"
    );
    assert!(
        machine
            .choose("serial=AAA-1")
            .unwrap_err()
            .contains("is in use")
    );
    assert_eq!(machine.choose("removable,smallest").as_deref(), Ok("sdd"));
}

/// A partition of a disk that is used as a whole is in use; one beside a used one is not.
#[test]
fn partitions() {
    let machine = node();
    machine.partition("pci0/ata1/sda", "sda1", "8:1", 1);
    machine.partition("pci0/ata1/sda", "sda2", "8:2", 2);
    let users = |number| System::below(machine.0.path()).device(number).users();
    machine.write(
        "proc/self/mountinfo",
        "29 1 8:2 / / rw - ext4 /dev/sda2 rw\n",
    );
    assert_eq!(users(nix::sys::stat::makedev(8, 1)), Vec::<String>::new());
    assert_eq!(
        users(nix::sys::stat::makedev(8, 0)),
        ["sda2 is mounted on /"]
    );
    machine.disk(
        "virtual/block/dm-0",
        "253:0",
        GIB,
        &[("dm/name", "mpatha"), ("dm/uuid", "mpath-3600")],
    );
    machine.hold("pci0/ata1/sda", "dm-0");
    assert_eq!(
        users(nix::sys::stat::makedev(8, 1)),
        ["sda is held by dm-0 (multipath mpatha)"]
    );
}

/// A table of a real machine is made without harm.
#[test]
fn this_machine() {
    let table = System::default().table();
    assert!(table.starts_with("disk"), "{table}");
}

/// What is smaller than a disk and none: boot areas of eMMC, SD cards, paths to a disk that has several.
#[test]
fn smaller_than_the_smallest() {
    let machine = Machine::new();
    machine.disk(
        "soc/mmc0/mmcblk0",
        "179:0",
        32 * GIB,
        &[("device/type", "MMC")],
    );
    machine.disk("soc/mmc0/mmcblk0boot0", "179:8", GIB / 256, &[]);
    machine.disk(
        "soc/mmc1/mmcblk1",
        "179:16",
        8 * GIB,
        &[("device/type", "SD")],
    );
    machine.disk(
        "pci0/nvme0/nvme0c0n1",
        "259:1",
        16 * GIB,
        &[("hidden", "1")],
    );
    assert_eq!(machine.choose("smallest").as_deref(), Ok("mmcblk0"));
    assert_eq!(machine.choose("only").as_deref(), Ok("mmcblk0"));
    assert_eq!(machine.choose("removable").as_deref(), Ok("mmcblk1"));
    assert!(machine.disks().iter().all(|disk| disk.name != "nvme0c0n1"));
}
