//! Changed partition tables, judged by the programs of others: sgdisk, sfdisk, parted.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests: what is not as expected should panic"
)]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::has_tool;
use diskmap::TableKind;
use diskmap::edit::{Edit, Edited, edit};
use proptest::prelude::*;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn tools() -> bool {
    ["sgdisk", "sfdisk", "parted"]
        .iter()
        .all(|tool| has_tool(tool))
}

struct Disk {
    directory: TempDir,
    bytes: Vec<u8>,
}

impl Disk {
    /// A disk of this many bytes with a table of sfdisk, which writes tables for sectors of 512 bytes.
    fn new(script: &str, bytes: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0; bytes as usize]).unwrap();
        let mut sfdisk = Command::new("/usr/sbin/sfdisk");
        sfdisk.arg("--quiet").arg(&path).stdin(Stdio::piped());
        let mut child = sfdisk.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        let bytes = fs::read(&path).unwrap();
        Self { directory, bytes }
    }

    /// The disk copied onto a larger or smaller one, and changed.
    fn changed(&self, target: u64, options: Edit) -> (Edited, Vec<u8>) {
        changed(&self.bytes, target, options)
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("changed");
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn changed(bytes: &[u8], target: u64, options: Edit) -> (Edited, Vec<u8>) {
    let options = Edit {
        target_sectors: target / 512,
        ..options
    };
    let edited = edit(&bytes, 512, &options).unwrap();
    let mut copy = bytes.to_vec();
    copy.resize(target.max(bytes.len() as u64) as usize, 0);
    for (offset, bytes) in &edited.writes {
        let at = *offset as usize;
        copy[at..at + bytes.len()].copy_from_slice(bytes);
    }
    copy.truncate(target as usize);
    (edited, copy)
}

/// What a program says about a disk.
fn said(program: &str, arguments: &[&str], disk: &Path) -> String {
    let output = Command::new(format!("/usr/sbin/{program}"))
        .args(arguments)
        .arg(disk)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    format!("{}\n{}", output.status, String::from_utf8(text).unwrap())
}

/// Checks that nobody has anything to say against a GPT.
fn is_sound(disk: &Path) {
    let text = said("sgdisk", &["-v"], disk);
    assert!(text.contains("No problems found"), "{text}");
    let text = said("sfdisk", &["--verify"], disk);
    assert!(text.contains("No errors detected"), "{text}");
    for word in ["mismatch", "corrupt", "backup", "not on the end"] {
        assert!(!text.contains(word), "{text}");
    }
    let text = said("sfdisk", &["--list"], disk);
    assert!(
        !text.contains("mismatch") && !text.contains("not on the end"),
        "{text}"
    );
    let parted = Command::new("/usr/sbin/parted")
        .args(["--script"])
        .arg(disk)
        .args(["unit", "s", "print"])
        .output()
        .unwrap();
    assert!(
        parted.status.success() && parted.stderr.is_empty(),
        "{parted:?}"
    );
}

/// Start and size of each partition by sfdisk, in sectors.
fn partitions(disk: &Path) -> Vec<(u64, u64)> {
    let text = said("sfdisk", &["--dump"], disk);
    let number = |line: &str, name: &str| -> Option<u64> {
        let rest = line.split(name).nth(1)?;
        rest.split(',').next()?.trim().parse().ok()
    };
    text.lines()
        .filter_map(|line| Some((number(line, "start=")?, number(line, "size=")?)))
        .collect()
}

const GPT: &str = "label: gpt\nstart=2048, size=2048, type=U\nstart=6144, size=4096, type=L\nstart=4096, size=2048, type=L\n";
const RESIZE: Edit = Edit {
    target_sectors: 0,
    resize: true,
    grow: false,
    new_ids: None,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// A larger disk has a sound GPT with the same partitions, and going back gives what there was, to the last bit.
    #[test]
    fn moving_the_backup_there_and_back(sectors in 12288_u64..12500, more in prop_oneof![1_u64..80, 1000_u64..9000]) {
        if !tools() {
            return Ok(());
        }
        let disk = Disk::new(GPT, sectors * 512);
        let target = (sectors + more) * 512;
        let (edited, copy) = disk.changed(target, RESIZE);
        prop_assert_eq!(edited.doubt, None);
        prop_assert_eq!(edited.moved, Some(sectors + more - 1));
        let path = disk.write(&copy);
        is_sound(&path);
        prop_assert_eq!(partitions(&path), [(2048, 2048), (6144, 4096), (4096, 2048)]);
        let (_, back) = changed(&copy, sectors * 512, RESIZE);
        prop_assert!(back == disk.bytes);
    }

    /// Nothing is written, and nothing panics, whatever is broken in a table.
    #[test]
    fn a_damaged_table_stays_as_it_is(at in prop_oneof![446_usize..512, 512_usize..2000, 6_275_000_usize..6_291_456], with in 1_u8..) {
        if !tools() {
            return Ok(());
        }
        let mut disk = Disk::new(GPT, 12288 * 512);
        disk.bytes[at] ^= with;
        let (edited, copy) = disk.changed(20000 * 512, RESIZE);
        if edited.doubt.is_some() || edited.moved.is_none() {
            prop_assert!(edited.writes.is_empty());
        } else {
            // The byte means nothing to a GPT, such as a cylinder.
            let (_, back) = changed(&copy, 12288 * 512, RESIZE);
            prop_assert!(back == disk.bytes);
        }
    }
}

#[test]
fn the_last_partition_grows_and_everything_has_new_names() {
    if !tools() {
        return;
    }
    let disk = Disk::new(GPT, 16 * MIB);
    let (edited, copy) = disk.changed(
        40 * MIB,
        Edit {
            grow: true,
            new_ids: Some([7; 32]),
            ..RESIZE
        },
    );
    assert_eq!(edited.grown, Some((2, 4096)));
    let path = disk.write(&copy);
    is_sound(&path);
    // Up to the last whole MiB in front of the backup.
    assert_eq!(
        partitions(&path),
        [(2048, 2048), (6144, 39 * 2048 - 6144), (4096, 2048)]
    );
    let dump = said("sfdisk", &["--dump"], &path).to_lowercase();
    let before = said("sfdisk", &["--dump"], &disk.write(&disk.bytes)).to_lowercase();
    assert_eq!(edited.ids.len(), 4);
    for (old, new) in &edited.ids {
        assert!(before.contains(old.as_str()) && !dump.contains(old.as_str()));
        assert!(dump.contains(new.as_str()));
    }
}

#[test]
fn what_stood_at_the_end_of_a_grown_partition_is_gone() {
    if !tools() {
        return;
    }
    for script in [GPT, "label: dos\nstart=2048, size=4096, type=83\n"] {
        let mut disk = Disk::new(script, 16 * MIB).bytes;
        let target = 40 * MIB;
        let end = disk.len();
        disk.resize(target as usize, 0xda);
        let grow = Edit {
            target_sectors: target / 512,
            grow: true,
            ..RESIZE
        };
        let edited = edit(&disk[..end].to_vec(), 512, &grow).unwrap();
        let last = edited.partitions.iter().map(|place| place.extent.end());
        let last = last.max().unwrap() * 512;
        for (offset, bytes) in &edited.writes {
            let at = *offset as usize;
            disk[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let tail = &disk[(last - MIB) as usize..last as usize];
        assert!(tail.iter().all(|&byte| byte == 0));
        assert_eq!(disk[(last - MIB) as usize - 1], 0xda);
    }
}

#[test]
fn a_hybrid_mbr_is_left_alone() {
    if !tools() {
        return;
    }
    let mut disk = Disk::new(GPT, 16 * MIB);
    // A second slot, as gdisk makes it for a hybrid.
    disk.bytes[462..478].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 24, 0, 0, 0, 16, 0, 0]);
    let (edited, _) = disk.changed(40 * MIB, RESIZE);
    assert!(edited.writes.is_empty());
    assert!(edited.doubt.unwrap().contains("MBR"));
}

#[test]
fn a_partition_that_would_be_cut_keeps_the_table_as_it_is() {
    if !tools() {
        return;
    }
    let disk = Disk::new(GPT, 16 * MIB);
    let (edited, _) = disk.changed(5 * MIB + 4096, RESIZE);
    assert!(edited.writes.is_empty() && edited.doubt.is_some());
}

#[test]
fn an_mbr_and_a_disk_without_a_table_do_not_care_for_the_size() {
    if !tools() {
        return;
    }
    let mbr = Disk::new("label: dos\nstart=2048, size=4096, type=83\n", 16 * MIB);
    let (edited, _) = mbr.changed(40 * MIB, RESIZE);
    assert_eq!((edited.kind, edited.writes.len()), (TableKind::Mbr, 0));
    assert_eq!(edited.doubt, None);
    let (edited, _) = changed(&vec![0; 1 << 20], 40 * MIB, RESIZE);
    assert_eq!((edited.kind, edited.writes.len()), (TableKind::None, 0));
    assert_eq!(edited.doubt, None);
}

const LOGICAL: &str = "label: dos\nstart=2048, size=2048, type=c\nstart=4096, size=20480, type=5\n\
                       start=6144, size=4096, type=83\nstart=12288, size=4096, type=83\n";

#[test]
fn a_logical_partition_grows_with_those_around_it() {
    if !tools() {
        return;
    }
    let disk = Disk::new(LOGICAL, 16 * MIB);
    let (edited, copy) = disk.changed(
        40 * MIB,
        Edit {
            grow: true,
            new_ids: Some([7; 32]),
            ..RESIZE
        },
    );
    assert_eq!((edited.grown, edited.doubt), (Some((6, 4096)), None));
    let path = disk.write(&copy);
    let text = said("sfdisk", &["--verify"], &path);
    assert!(text.contains("No errors detected"), "{text}");
    assert_eq!(
        partitions(&path),
        [
            (2048, 2048),
            (4096, 40 * 2048 - 4096),
            (6144, 4096),
            (12288, 40 * 2048 - 12288)
        ]
    );
    let dump = said("sfdisk", &["--dump"], &path);
    assert!(
        dump.contains(&format!("label-id: 0x{}", edited.ids[0].1)),
        "{dump}"
    );
}

#[test]
fn a_primary_partition_grows_unless_something_follows() {
    if !tools() {
        return;
    }
    let grow = Edit {
        grow: true,
        ..RESIZE
    };
    let disk = Disk::new("label: dos\nstart=2048, size=4096, type=83\n", 16 * MIB);
    let (edited, copy) = disk.changed(40 * MIB, grow);
    assert_eq!(edited.grown, Some((1, 4096)));
    let path = disk.write(&copy);
    assert_eq!(partitions(&path), [(2048, 39 * 2048)]);
    let text = said("sfdisk", &["--verify"], &path);
    assert!(text.contains("No errors detected"), "{text}");
    let blocked = "label: dos\nstart=2048, size=4096, type=83\nstart=8192, size=4096, type=5\n";
    let (edited, _) = Disk::new(blocked, 16 * MIB).changed(40 * MIB, grow);
    assert_eq!((edited.grown, edited.writes.len()), (None, 0));
}
