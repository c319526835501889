//! The free space of exFAT against partclone, sleuthkit, exfatprogs and exfat-fuse.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;
mod winfs;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{FileSource, check, free, has_tool, is_subset, map, map_strict, run, sparse};
use diskmap::{Cause, Corrupt, DiskMap, Error, Extent, Incompatible, TableKind};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use winfs::{
    beside, contents, cut_out, filesystem, forensics_sample, has_fuse, map_clean, mounted,
    overwritten, partclone_free, populate, sleuthkit_free, total,
};

fn tools() -> bool {
    [
        "mkfs.exfat",
        "fsck.exfat",
        "dump.exfat",
        "mount.exfat-fuse",
        "losetup",
        "partclone.exfat",
        "blkls",
        "blkid",
    ]
    .iter()
    .all(|tool| has_tool(tool))
        && has_fuse()
}

/// A file as a block device, which exfat-fuse insists on.
struct Loop(String);

impl Loop {
    fn new(image: &Path, sector: u32) -> Self {
        let name = run(
            &format!("losetup -b {sector} --show -f {}", image.display()),
            "",
        );
        Self(name.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(&format!("losetup -d {}", self.0), "");
    }
}

/// Works in a mounted image.
fn in_mount(image: &Path, sector: u32, options: &str, work: impl FnOnce(&Path)) {
    let mount = beside(image, "mount");
    let device = Loop::new(image, sector);
    let command = format!(
        "mount.exfat-fuse -d{options} {} {}",
        device.0,
        mount.display()
    );
    mounted(&command, &mount, || work(&mount));
}

/// Makes a filesystem of `mib` MiB and has it filled.
fn make(path: &Path, mib: u64, sector: u32, options: &str, fill: impl FnOnce(&Path)) {
    sparse(path, mib << 20);
    let device = Loop::new(path, sector);
    run(&format!("mkfs.exfat -L golden {options} {}", device.0), "");
    drop(device);
    in_mount(path, sector, "", fill);
}

fn extract(image: &Path, sector: u32) -> PathBuf {
    let directory = beside(image, "files");
    std::fs::create_dir(&directory).unwrap();
    in_mount(image, sector, " -o ro", |mount| {
        run(
            &format!("cp -r {}/. {}", mount.display(), directory.display()),
            "",
        );
    });
    directory
}

/// Compares the map of an image with everybody else's, and then overwrites what is free.
fn compare(path: &Path, sector: u32) -> DiskMap {
    run(&format!("fsck.exfat -n {}", path.display()), "");
    let map = map_clean(path);
    assert_eq!(
        (map.table, map.partitions[0].contents.kind),
        (TableKind::None, "exFAT")
    );
    let found = filesystem(&map);
    let ours = free(&map);
    assert!(total(&ours) > 0, "a test without free space proves nothing");

    let dump = run(&format!("dump.exfat {}", path.display()), "");
    let value = |name: &str| -> u64 {
        let line = dump
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().parse().unwrap()
    };
    assert_eq!(u64::from(found.block_size), value("Cluster size:"));
    assert_eq!(
        total(&ours) * 512,
        value("Free Clusters:") * value("Cluster size:")
    );
    assert_eq!(found.size_bytes - found.used_bytes, total(&ours) * 512);

    // Both call free too what lies behind the last cluster.
    let per_sector = u64::from(sector) / 512;
    let heap = value("Cluster Heap Offset (sector offset):") * per_sector;
    let end = heap + value("Total Clusters:") * value("Cluster size:") / 512;
    let inside = |mut runs: Vec<Extent>| {
        let last = runs.last_mut().unwrap();
        last.count = last.count.min(end.saturating_sub(last.first));
        runs.retain(|run| run.count > 0);
        runs
    };
    assert_eq!(ours, inside(sleuthkit_free("exfat", path, per_sector)));
    let partclone = inside(partclone_free("exfat", path));
    if found.block_size < 32 << 20 {
        assert_eq!(ours, partclone);
    } else {
        // partclone saves a cluster that all others, and the bit itself, call free.
        assert!(is_subset(&partclone, &ours));
    }

    let identity = run(&format!("blkid -p -o export {}", path.display()), "");
    let value = |name: &str| {
        identity
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::to_owned)
    };
    assert_eq!(found.uuid, value("UUID="));
    assert_eq!(found.label, value("LABEL="));

    let copy = overwritten(path, &map);
    run(&format!("fsck.exfat -n {}", copy.display()), "");
    let (before, after) = (extract(path, sector), extract(&copy, sector));
    run(
        &format!("diff -r {} {}", before.display(), after.display()),
        "",
    );
    map
}

macro_rules! variants {
    ($($name:ident: $mib:literal MiB, $sector:literal, $options:literal => $cluster:literal;)*) => {
        $(#[test]
        fn $name() {
            if tools() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("disk");
                make(&path, $mib, $sector, $options, |mount| populate(mount, 300_000));
                assert_eq!(filesystem(&compare(&path, $sector)).block_size, $cluster);
            }
        })*
    };
}

variants! {
    small: 60 MiB, 512, "" => 4096;
    sector_clusters: 50 MiB, 512, "-c 512" => 512;
    clusters_of_128k: 120 MiB, 512, "-c 128K" => 131_072;
    sectors_of_4k: 70 MiB, 4096, "-c 4K" => 4096;
    sectors_of_4k_large_clusters: 90 MiB, 4096, "-c 64K" => 65536;
    packed: 40 MiB, 512, "-b 4K -c 8K --pack-bitmap" => 8192;
    odd_size: 61 MiB, 512, "-b 2M -c 16K" => 16384;
}

#[test]
fn clusters_of_32m() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make(&path, 290, 512, "-c 32M", |mount| {
        for name in ["one", "two", "three"] {
            std::fs::write(mount.join(name), contents(name.len(), 50_000)).unwrap();
        }
        std::fs::remove_file(mount.join("two")).unwrap();
    });
    assert_eq!(filesystem(&compare(&path, 512)).block_size, 32 << 20);
}

#[test]
fn fragmented() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    make(&path, 30, 512, "-c 1K", |mount| {
        let mut files = ["left", "right", "third"].map(|name| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(mount.join(name))
                .unwrap()
        });
        for number in 0..150 {
            for file in &mut files {
                file.write_all(&contents(number, 1500)).unwrap();
                file.sync_all().unwrap();
            }
            // The root directory grows in between.
            std::fs::write(
                mount.join(format!("a file in the root directory {number}")),
                contents(number, 900),
            )
            .unwrap();
        }
        std::fs::remove_file(mount.join("right")).unwrap();
    });
    let map = compare(&path, 512);
    assert!(free(&map).len() > 100);
}

const SECTOR: usize = 512;

/// A small filesystem, its bytes and what is free in it.
struct Sample {
    bytes: Vec<u8>,
    free: Vec<Extent>,
}

fn sample() -> Option<&'static Sample> {
    static SAMPLE: OnceLock<Option<Sample>> = OnceLock::new();
    let make = || {
        tools().then(|| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("disk");
            make(&path, 20, 512, "-c 2K", |mount| populate(mount, 100_000));
            let map = map_clean(&path);
            Sample {
                bytes: std::fs::read(&path).unwrap(),
                free: free(&map),
            }
        })
    };
    SAMPLE.get_or_init(make).as_ref()
}

impl Sample {
    fn field(&self, at: usize) -> usize {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Where a cluster begins.
    fn cluster(&self, cluster: usize) -> usize {
        self.field(88) * SECTOR + (cluster - 2) * 2048
    }

    /// Where the entry of a cluster stands in the FAT.
    fn entry(&self, cluster: usize) -> usize {
        self.field(80) * SECTOR + cluster * 4
    }

    /// Where the entry of a type stands in the root directory.
    fn in_root(&self, kind: u8) -> usize {
        let start = self.cluster(self.field(96));
        (start..)
            .step_by(32)
            .find(|&at| self.bytes[at] == kind)
            .unwrap()
    }

    /// First cluster of the bitmap or the up-case table.
    fn table(&self, kind: u8) -> usize {
        self.field(self.in_root(kind) + 20)
    }

    /// The strict error after an edit, which must leave nothing free.
    fn error_after(&self, edit: impl FnOnce(&mut [u8])) -> Cause {
        let mut bytes = self.bytes.clone();
        edit(&mut bytes);
        assert_eq!(free(&map(&bytes)), []);
        match map_strict(&bytes).unwrap_err() {
            Error::Incompatible { kind, .. } => kind.into(),
            Error::Corrupt { kind, .. } => kind.into(),
            other => panic!("{other}"),
        }
    }

    /// The same, with both boot regions and their checksums made right again after the edit of
    /// the boot sector.
    fn error_after_boot(&self, edit: impl FnOnce(&mut [u8])) -> Cause {
        self.error_after(|bytes| {
            edit(bytes);
            sum_boot_regions(bytes);
        })
    }
}

fn sum_boot_regions(bytes: &mut [u8]) {
    let mut sum = 0_u32;
    for (at, &byte) in bytes[..11 * SECTOR].iter().enumerate() {
        if ![106, 107, 112].contains(&at) {
            sum = sum.rotate_right(1).wrapping_add(byte.into());
        }
    }
    for word in bytes[11 * SECTOR..12 * SECTOR].chunks_exact_mut(4) {
        word.copy_from_slice(&sum.to_le_bytes());
    }
    bytes.copy_within(..12 * SECTOR, 12 * SECTOR);
}

#[test]
fn the_state_of_the_volume_is_obeyed() {
    let Some(sample) = sample() else { return };
    for bit in [1, 2] {
        let cause = sample.error_after(|bytes| bytes[106] |= 1 << bit);
        assert!(matches!(
            cause,
            Cause::Incompatible(Incompatible::NotClean { .. })
        ));
    }
    let cause = sample.error_after(|bytes| bytes[106] |= 1);
    assert!(matches!(
        cause,
        Cause::Incompatible(Incompatible::Unsupported { .. })
    ));
    let cause = sample.error_after(|bytes| bytes[107] |= 1);
    assert!(matches!(
        cause,
        Cause::Incompatible(Incompatible::Features { .. })
    ));
    // ClearToZero and PercentInUse mean nothing.
    let mut bytes = sample.bytes.clone();
    bytes[106] |= 8;
    bytes[112] = 17;
    assert_eq!(free(&map(&bytes)), sample.free);
    // exfat-fuse marks what it has mounted.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, &sample.bytes).unwrap();
    in_mount(&path, 512, "", |mount| {
        std::fs::write(mount.join("new"), "x").unwrap();
        run("sync", "");
        assert_eq!(free(&map(&FileSource::open(&path))), []);
    });
    map_clean(&path);
}

#[test]
fn each_field_of_the_boot_sector_is_checked() {
    let Some(sample) = sample() else { return };
    let fields: [(usize, &[u8]); 13] = [
        (11, &[1]),
        (510, &[0]),
        (72, &[0xff, 0xff, 0xff, 0xff]),
        (80, &[23, 0, 0, 0]),
        (84, &[1, 0, 0, 0]),
        (88, &[25, 0, 0, 0]),
        (92, &[0, 0, 0, 0]),
        (92, &[0xff, 0xff, 0xff, 0xff]),
        (96, &[1, 0, 0, 0]),
        (108, &[8]),
        (108, &[13]),
        (109, &[17]),
        (109, &[0xff]),
    ];
    for (at, value) in fields {
        let cause =
            sample.error_after_boot(|bytes| bytes[at..at + value.len()].copy_from_slice(value));
        let is_expected = matches!(
            cause,
            Cause::Corrupt(Corrupt::Field { .. } | Corrupt::LargerThanPartition { .. })
        );
        assert!(is_expected, "{at}: {cause}");
    }
    for (at, value) in [(105, 2), (104, 1), (110, 2)] {
        let cause = sample.error_after_boot(|bytes| bytes[at] = value);
        assert!(
            matches!(cause, Cause::Incompatible(Incompatible::Unsupported { .. })),
            "{at}: {cause}"
        );
    }
    // Without a new checksum.
    for at in [0, 64, 72, 96, 100, 120, 5 * SECTOR, 11 * SECTOR + 4] {
        for region in [0, 12 * SECTOR] {
            // The first byte of the name would make it no exFAT at all.
            let cause = sample.error_after(|bytes| bytes[region + at] ^= 0x10);
            let is_expected = matches!(
                cause,
                Cause::Corrupt(Corrupt::Checksum { .. } | Corrupt::Field { .. })
            );
            assert!(is_expected, "{region} + {at}: {cause}");
        }
    }
    // A backup that is whole, but of another filesystem.
    let cause = sample.error_after(|bytes| {
        let main = bytes[..12 * SECTOR].to_vec();
        bytes[92] ^= 1;
        sum_boot_regions(bytes);
        bytes[..12 * SECTOR].copy_from_slice(&main);
    });
    assert!(matches!(cause, Cause::Corrupt(Corrupt::Structure { .. })));
}

#[test]
fn contradictions_are_found() {
    let Some(sample) = sample() else { return };
    let (bitmap, up_case, root) = (sample.table(0x81), sample.table(0x82), sample.field(96));
    for cluster in [bitmap, up_case, root] {
        let cause = sample.error_after(|bytes| {
            bytes[sample.cluster(bitmap) + (cluster - 2) / 8] &= !(1 << ((cluster - 2) % 8));
        });
        assert!(
            matches!(cause, Cause::Corrupt(Corrupt::Conflict { .. })),
            "{cause}"
        );
    }
    // The last cluster of a file without a chain, by the stream entry behind its file entry.
    let stream = sample.in_root(0xc0);
    let is_chained = sample.bytes[stream + 1] & 2 == 0;
    let clusters = if is_chained {
        1
    } else {
        sample.field(stream + 24).div_ceil(2048)
    };
    let last = sample.field(stream + 20) + clusters - 1;
    let cause = sample.error_after(|bytes| {
        bytes[sample.cluster(bitmap) + (last - 2) / 8] &= !(1 << ((last - 2) % 8));
    });
    assert!(
        matches!(cause, Cause::Corrupt(Corrupt::Conflict { .. })),
        "{cause}"
    );
    let cause = sample.error_after(|bytes| bytes[sample.cluster(up_case) + 100] ^= 1);
    assert!(matches!(cause, Cause::Corrupt(Corrupt::Checksum { .. })));
    let put = |bytes: &mut [u8], at: usize, value: u32| {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    // The chains of the root directory and of the tables.
    for (cluster, value) in [
        (root, root as u32),
        (root, 0),
        (root, 1),
        (root, 0xffff_fff7),
        (bitmap, 0),
        (bitmap, 900),
        (up_case, 0xffff_ffff),
        (up_case, 900),
    ] {
        sample.error_after(|bytes| put(bytes, sample.entry(cluster), value));
    }
    // Entries of the root directory: no bitmap, two of them, one too short, one elsewhere.
    for kind in [0x81, 0x82] {
        let at = sample.in_root(kind);
        sample.error_after(|bytes| bytes[at] &= 0x7f);
        sample.error_after(|bytes| put(bytes, at + 20, 1));
        sample.error_after(|bytes| put(bytes, at + 20, 700));
        sample.error_after(|bytes| put(bytes, at + 24, 0));
        sample.error_after(|bytes| put(bytes, at + 28, 7));
    }
    sample.error_after(|bytes| put(bytes, sample.in_root(0x81) + 24, 100));
    sample.error_after(|bytes| bytes[sample.in_root(0x83)] = 0x81);
    assert_eq!(free(&map(&sample.bytes[..10 << 20].to_vec())), []);
}

#[test]
fn what_others_made() {
    let directory = tempfile::tempdir().unwrap();
    if !tools() {
        return;
    }
    let Some(disk) = forensics_sample(directory.path(), "exfat") else {
        return;
    };
    let outer = map(&FileSource::open(&disk));
    assert_eq!(outer.table, TableKind::Mbr);
    let found = &outer.partitions[0];
    let part = cut_out(&disk, found.first, found.count);
    let inner = compare(&part, 512);
    assert_eq!(found.contents.filesystem.as_ref(), Some(filesystem(&inner)));
    assert_eq!(found.saved_sectors, total(&inner.saved));

    // That of the other disk was made for a larger partition, as fsck.exfat says too.
    let Some(disk) = forensics_sample(directory.path(), "multiple") else {
        return;
    };
    let outer = map(&FileSource::open(&disk));
    let mut warnings = outer.warnings.iter();
    let warning = warnings
        .find(|warning| warning.place.partition == Some(3))
        .unwrap();
    let kind = Corrupt::LargerThanPartition {
        filesystem: "exFAT",
        bytes: 202_752 * 512,
        partition: 81920 * 512,
    };
    assert_eq!(warning.cause, Cause::Corrupt(kind));
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), cases: 200, ..ProptestConfig::default() })]

    /// Everything under a checksum, and the FAT's chains that are read.
    #[test]
    fn damage_frees_nothing(at in 0..24 * SECTOR, value in any::<u8>()) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut bytes = sample.bytes.clone();
        bytes[at] = value;
        let map = map(&bytes);
        check(&map);
        prop_assert!(is_subset(&free(&map), &sample.free), "byte {} = {:#x}", at, value);
    }

    /// Wherever the metadata are wrong, with checksums that are right: no panic.
    #[test]
    fn wrong_metadata_do_not_panic(boot in prop::collection::vec((64..112_usize, any::<u8>()), 0..4), root in prop::collection::vec((0..2048_usize, any::<u8>()), 0..4)) {
        let Some(sample) = sample() else { return Ok(()) };
        let mut bytes = sample.bytes.clone();
        for (at, value) in boot {
            bytes[at] = value;
        }
        for (at, value) in root {
            bytes[sample.cluster(sample.field(96)) + at] = value;
        }
        sum_boot_regions(&mut bytes);
        check(&map(&bytes));
    }
}
