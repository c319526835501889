//! What is left of an older filesystem, and what looks like a filesystem but is a piece of one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::tables::{MIB, Script, disk, map_file, patch};
use common::{free, has_tool, run, sparse};
use diskmap::{Cause, Effect, Incompatible};

#[test]
fn udf_over_btrfs_is_copied_raw() {
    if !["mkfs.btrfs", "mkudffs"].into_iter().all(has_tool) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    sparse(&path, 300 << 20);
    run(&format!("mkfs.btrfs -q {}", path.display()), "");
    assert_ne!(free(&map_file(&path)), []);
    // Leaves the superblock and all trees of Btrfs.
    run(
        &format!(
            "mkudffs --media-type=hd --bootarea=preserve -b 4096 {}",
            path.display()
        ),
        "",
    );
    let map = map_file(&path);
    assert_eq!(free(&map), []);
    let kind = Incompatible::Ambiguous {
        first: "UDF",
        second: "Btrfs",
    };
    assert_eq!(map.warnings[0].cause, Cause::Incompatible(kind));
    assert_eq!(map.warnings[0].effect, Effect::RawDisk);
}

/// On a dynamic disk the partition is a pool: a volume that begins in it goes on anywhere.
#[test]
fn pools_of_volumes_are_copied_raw() {
    if !["sfdisk", "sgdisk", "mke2fs"].into_iter().all(has_tool) {
        return;
    }
    let scripts = [
        (Script::Sfdisk("label: dos\n2048,43008,83\n"), true),
        (Script::Sfdisk("label: dos\n2048,43008,42\n"), false),
        (Script::Sgdisk("-n 1:2048:+21M -t 1:8300"), true),
        (
            Script::Sgdisk("-n 1:2048:+21M -t 1:AF9B60A0-1431-4F62-BC68-3311714A69AD"),
            false,
        ),
        (
            Script::Sgdisk("-n 1:2048:+21M -t 1:E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"),
            false,
        ),
        (
            Script::Sgdisk("-n 1:2048:+21M -t 1:52414944-0000-11AA-AA11-00306543ECAC"),
            false,
        ),
    ];
    for (script, is_parsed) in scripts {
        let directory = tempfile::tempdir().unwrap();
        let (path, expected) = disk(directory.path(), script, &[MIB]);
        let map = map_file(&path);
        let expected = if is_parsed { expected } else { Vec::new() };
        assert_eq!(free(&map), expected);
        assert_eq!(map.partitions[0].contents.raw.is_none(), is_parsed);
    }
}

/// Nobody wakes up from the older one, which was made for pages of another size.
#[test]
fn a_suspended_system_before_an_older_swap_area_is_kept() {
    if !has_tool("mkswap") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("swap");
    sparse(&path, 8 << 20);
    run(&format!("mkswap {}", path.display()), "");
    assert_ne!(free(&map_file(&path)), []);
    patch(&path, 8182, b"SWAPSPACE2");
    assert_ne!(free(&map_file(&path)), []);
    patch(&path, 4086, b"S1SUSPEND\0");
    assert_eq!(free(&map_file(&path)), []);
}

/// Btrfs does not tell whether it is mounted. What a sleeping system has written into it since
/// the last commit is in use.
#[test]
fn btrfs_beside_a_suspended_system_is_copied_raw() {
    if !["sfdisk", "mkfs.btrfs", "mkswap"].into_iter().all(has_tool) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, part) = (directory.path().join("disk"), directory.path().join("part"));
    sparse(&path, 200 << 20);
    let table = "label: dos\n2048,307200,83\n,16384,82\n";
    run(&format!("sfdisk -q {}", path.display()), table);
    for (first, size, tool) in [
        (2048, 150 << 20, "mkfs.btrfs -q"),
        (309_248, 8 << 20, "mkswap"),
    ] {
        sparse(&part, size);
        run(&format!("{tool} {}", part.display()), "");
        patch(&path, first * 512, &std::fs::read(&part).unwrap());
    }
    let awake = map_file(&path);
    let saved = |map: &diskmap::DiskMap| map.partitions[0].saved_sectors;
    assert!(saved(&awake) < 307_200 / 2);
    patch(&path, 309_248 * 512 + 4086, b"S1SUSPEND\0");
    let asleep = map_file(&path);
    assert_eq!(saved(&asleep), 307_200);
    assert_eq!(free(&asleep), []);
    assert!(asleep.partitions[0].contents.raw.is_some());
}
