//! Unusual partition tables, next to what libblkid and sfdisk read in them: hybrid MBRs, odd
//! chains of logical partitions, damaged, moved and contradicting GPTs, boot sectors that look
//! like tables.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod common;

use std::path::{Path, PathBuf};

use common::tables::{
    DISK_SECTORS, MIB, Script, disk, map_file, patch, sector_with_signature, tools,
};
use common::{FileSource, check, free, has_tool, is_subset, map, map_strict, run, sparse};
use crc::{CRC_32_ISO_HDLC, Crc};
use diskmap::{Cause, Corrupt, DiskMap, Effect, Extent, Incompatible, Options, TableKind};

type Listed = (u32, u64, u64);

/// Number, first sector and count of every partition by libblkid, ascending by number.
fn partx(path: &Path, sector_size: u32) -> Vec<Listed> {
    let line = format!(
        "partx -S {sector_size} -g -o NR,START,SECTORS {}",
        path.display()
    );
    let scale = u64::from(sector_size / 512);
    let mut list: Vec<Listed> = run(&line, "")
        .lines()
        .map(|line| {
            let words = line.split_whitespace().map(str::parse::<u64>);
            let words: Vec<u64> = words.map(Result::unwrap).collect();
            (words[0] as u32, words[1] / scale, words[2] / scale)
        })
        .collect();
    list.sort_unstable();
    list
}

fn listed(map: &DiskMap) -> Vec<Listed> {
    let line = |p: &diskmap::Partition| (p.number, p.first, p.count);
    let mut list: Vec<Listed> = map.partitions.iter().map(line).collect();
    list.sort_unstable();
    list
}

fn map_with(path: &Path, sector_size: u32) -> DiskMap {
    let options = Options {
        sector_size,
        ..Options::default()
    };
    let map = diskmap::map(&FileSource::open(path), &options).unwrap();
    check(&map);
    map
}

/// Type, first sector and count as they stand in a slot.
type Slot = (u8, u32, u32);

fn boot_record(slots: &[Slot]) -> [u8; 512] {
    let mut sector = sector_with_signature();
    for (index, &(kind, first, count)) in slots.iter().enumerate() {
        let at = 446 + 16 * index;
        sector[at + 4] = kind;
        sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    }
    sector
}

/// A disk of 64 MiB with boot records in the sectors given.
fn chain(directory: &Path, sector_size: u32, records: &[(u64, &[Slot])]) -> PathBuf {
    let path = directory.join(format!("chain{sector_size}"));
    sparse(&path, 64 << 20);
    for &(sector, slots) in records {
        patch(&path, sector * u64::from(sector_size), &boot_record(slots));
    }
    path
}

#[test]
fn the_gpt_of_a_hybrid_disk_decides() {
    if !tools() || !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (options, protective) in [("-h 1:4", 0), ("-h 1:4:EE", 2)] {
        let script = format!("-n 1:2048:+21M -n 2:0:+8M -n 4:0:+21M {options}");
        let script = Script::Sgdisk(Box::leak(script.into_boxed_str()));
        let (path, expected) = disk(directory.path(), script, &[MIB, 30 * MIB]);
        let sector = std::fs::read(&path).unwrap()[..512].to_vec();
        assert_eq!(sector[446 + 16 * protective + 4], 0xee);
        let hybrid = map_file(&path);
        assert!(hybrid.hybrid);
        assert_eq!(
            (hybrid.table, &hybrid.warnings[..]),
            (TableKind::Gpt, &[][..])
        );
        assert_eq!(listed(&hybrid), partx(&path, 512));
        assert_eq!(free(&hybrid), expected);

        // A further slot in a gap: nothing changes. One that cuts the first partition in two:
        // that is copied raw.
        for (first, count, raw) in [(100 * MIB, MIB, false), (2 * MIB, 40 * MIB, true)] {
            let mut other = sector.clone();
            let slot = boot_record(&[(0x83, first as u32, count as u32)]);
            other[494..510].copy_from_slice(&slot[446..462]);
            patch(&path, 0, &other);
            let map = map_file(&path);
            assert!(map.hybrid);
            if raw {
                assert!(is_subset(&free(&map), &expected));
                assert_eq!(map.partitions[0].saved_sectors, map.partitions[0].count);
                assert_eq!(map.warnings[0].effect, Effect::RawPartition);
            } else {
                assert_eq!((free(&map), map.warnings.len()), (expected.clone(), 0));
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
    let (path, _) = disk(directory.path(), Script::Sgdisk("-n 1:0:0"), &[]);
    assert!(!map_file(&path).hybrid);
}

#[test]
fn many_logical_partitions_are_numbered_as_by_others() {
    if !tools() || !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    sparse(&path, 200 << 20);
    let mut script = "label: dos\n2048,100\n8192,300000,5\n3000,100\n4000,100\n".to_owned();
    script += &",4096\n".repeat(40);
    run(&format!("sfdisk -q {}", path.display()), &script);
    let map = map_file(&path);
    let mut expected = partx(&path, 512);
    expected.retain(|&(number, ..)| number != 2);
    assert_eq!(expected.len(), 43);
    assert_eq!((listed(&map), map.warnings.len()), (expected, 0));
}

#[test]
fn odd_chains_are_followed_as_by_others() {
    if !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for sector_size in [512, 4096] {
        for extended in [0x05, 0x0f, 0x85] {
            // Primary partitions out of order, one without a type; a chain that goes back and
            // forth, with the link before or between the data, four partitions in one record,
            // an empty record, and garbage in the last slots of another.
            let records: &[(u64, &[Slot])] = &[
                (
                    0,
                    &[
                        (0x83, 900, 50),
                        (extended, 1000, 5000),
                        (0x82, 100, 50),
                        (0, 300, 50),
                    ],
                ),
                (1000, &[(0x05, 4000, 900), (0x83, 10, 90)]),
                (
                    5000,
                    &[
                        (0x83, 1, 49),
                        (0x83, 50, 50),
                        (0x83, 100, 50),
                        (0x83, 150, 50),
                    ],
                ),
                (3000, &[(0x0f, 2000, 900), (0x83, 5, 7)]),
            ];
            let path = chain(directory.path(), sector_size, records);
            let link = boot_record(&[
                (0x83, 1, 49),
                (0x83, 50, 50),
                (0x85, 1000, 500),
                (0x83, 200, 700),
            ]);
            patch(&path, 5000 * u64::from(sector_size), &link);
            let empty = boot_record(&[(0x05, 2000, 500)]);
            patch(&path, 2000 * u64::from(sector_size), &empty);
            let garbage = boot_record(&[
                (0x83, 5, 7),
                (0, 0, 0),
                (0x77, 0x1234_5678, 99),
                (0x83, 20, 481),
            ]);
            patch(&path, 3000 * u64::from(sector_size), &garbage);
            let map = map_with(&path, sector_size);
            let mut expected = partx(&path, sector_size);
            expected.retain(|&(number, ..)| number != 2);
            assert_eq!(expected.len(), 8, "{expected:?}");
            assert_eq!((listed(&map), map.warnings.len()), (expected, 0));
            assert_eq!(map.partitions[0].first, 900);
        }
    }
}

#[test]
fn endless_chains_end() {
    if !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let outer: &[Slot] = &[(0x05, 100, 60_000), (0x05, 70_000, 60_000)];
    let second: &[Slot] = &[(0x83, 5, 7)];
    // A link to itself, to the record before, out of the disk, to a sector that is no record.
    let cases: [(&[Slot], &[Slot]); 4] = [
        (&[(0x83, 5, 7), (0x05, 0, 10)], &[]),
        (
            &[(0x83, 5, 7), (0x05, 50, 10)],
            &[(0x83, 5, 7), (0x05, 0, 10)],
        ),
        (&[(0x83, 5, 7), (0x05, 1_000_000, 10)], &[]),
        (&[(0x83, 5, 7), (0x05, 3000, 10)], &[]),
    ];
    for (first, next) in cases {
        let mut records = vec![(0, outer), (100, first), (70_000, second)];
        if !next.is_empty() {
            records.push((150, next));
        }
        let path = chain(directory.path(), 512, &records);
        let map = map_with(&path, 512);
        assert_eq!(map.warnings.len(), 1, "{:?}", map.warnings);
        assert_eq!(map.warnings[0].effect, Effect::ChainCut);
        // No number behind the cut: that of others may differ.
        let expected: Vec<Listed> = partx(&path, 512)
            .into_iter()
            .filter(|&(number, ..)| number == 5 || (number == 6 && !next.is_empty()))
            .collect();
        assert_eq!(listed(&map), expected);
    }
    // Empty records only.
    let path = chain(directory.path(), 512, &[(0, outer), (70_000, second)]);
    for number in 0..50_000 {
        let slot = boot_record(&[(0x05, number + 1, 1)]);
        patch(&path, 512 * (100 + u64::from(number)), &slot);
    }
    let map = map_with(&path, 512);
    assert_eq!(map.partitions, []);
    assert_eq!(
        map.warnings[0].cause,
        Cause::Corrupt(Corrupt::ExtendedChain("is too long"))
    );
}

/// The checksums of a GPT header and of its entries, corrected.
fn sign(bytes: &mut [u8], header: usize, sector_size: usize) {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let number = |at: usize, len: usize| {
        let mut value = [0; 8];
        value[..len].copy_from_slice(&bytes[header + at..header + at + len]);
        u64::from_le_bytes(value) as usize
    };
    let entries = number(72, 8) * sector_size;
    let len = number(80, 4) * number(84, 4);
    let sum = CRC.checksum(&bytes[entries..entries + len]);
    bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
    bytes[header + 16..header + 20].fill(0);
    let sum = CRC.checksum(&bytes[header..header + 92]);
    bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Bytes of entry `index` of the primary GPT and of the backup, behind 128 entries of 128 bytes.
fn entries(bytes: &[u8], index: usize) -> [usize; 2] {
    [1024, bytes.len() - 33 * 512].map(|at| at + 128 * index)
}

fn sign_both(bytes: &mut [u8]) {
    sign(bytes, 512, 512);
    sign(bytes, bytes.len() - 512, 512);
}

#[test]
fn gpt_entries_are_checked_one_by_one() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = Script::Sgdisk("-n 1:2048:+21M -n 2:0:+8M -n 4:0:+21M");
    let (path, expected) = disk(directory.path(), script, &[MIB, 30 * MIB]);
    let intact = std::fs::read(&path).unwrap();
    let first_only: Vec<Extent> = expected
        .iter()
        .copied()
        .filter(|run| run.first < 22 * MIB)
        .collect();
    let last_only: Vec<Extent> = expected
        .iter()
        .copied()
        .filter(|run| run.first >= 30 * MIB)
        .collect();
    // First and last sector of entry 2, which has no filesystem, and what stays free.
    let cases = [
        (50 * MIB, 52 * MIB, &first_only),   // overlaps the end of 4
        (31 * MIB, 32 * MIB, &first_only),   // inside of 4
        (0, DISK_SECTORS - 1, &vec![]),      // over everything
        (22 * MIB, 22 * MIB - 1, &expected), // empty
        (26 * MIB, 22 * MIB, &expected),     // backwards
        (60 * MIB, DISK_SECTORS, &expected), // out of the disk
        (60 * MIB, u64::MAX, &expected),     // further out
        (28 * MIB, 30 * MIB, &first_only),   // one sector too far
        (10, 2047, &expected),               // before the usable sectors
        (2048, 22 * MIB, &last_only),        // the same start as 1
    ];
    for (first, last, remaining) in cases {
        let mut bytes = intact.clone();
        for at in entries(&bytes, 1) {
            put(&mut bytes, at + 32, first);
            put(&mut bytes, at + 40, last);
        }
        sign_both(&mut bytes);
        let map = map(&bytes);
        check(&map);
        assert_eq!(&free(&map), remaining, "{first} to {last}");
        assert!(!map.warnings.is_empty());
        assert!(map_strict(&bytes).is_err());
    }
}

#[test]
fn gpts_that_differ_are_believed_where_they_agree() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = Script::Sgdisk("-n 1:2048:+21M -n 2:0:+8M -n 4:0:+21M");
    let (path, expected) = disk(directory.path(), script, &[MIB, 30 * MIB]);
    let intact = std::fs::read(&path).unwrap();
    let at = entries(&intact, 3)[1];
    for change in ["start", "end", "gone"] {
        let mut bytes = intact.clone();
        match change {
            "start" => put(&mut bytes, at + 32, 32 * MIB),
            "end" => put(&mut bytes, at + 40, 60 * MIB),
            _ => bytes[at..at + 128].fill(0),
        }
        sign_both(&mut bytes);
        let map = map(&bytes);
        let agreed: Vec<Extent> = expected
            .iter()
            .copied()
            .filter(|run| run.first < 22 * MIB)
            .collect();
        assert_eq!(free(&map), agreed);
        let effects: Vec<_> = map.warnings.iter().map(|warning| warning.effect).collect();
        assert_eq!(effects, [Effect::DifferencesRaw, Effect::RawPartition]);
        // With a damaged primary GPT there is only one opinion.
        bytes[512] = 0;
        let map = common::map(&bytes);
        assert_eq!(map.warnings[0].effect, Effect::BackupUsed);
    }
    // Another name is no difference.
    let mut bytes = intact;
    bytes[at + 56] = b'x';
    sign_both(&mut bytes);
    let map = map(&bytes);
    assert_eq!((free(&map), map.warnings.len()), (expected, 0));
}

#[test]
fn enlarged_and_truncated_disks_keep_their_gpt() {
    if !tools() || !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = Script::Sgdisk("-n 1:2048:+21M -n 2:0:+8M -n 4:0:+21M");
    let (path, expected) = disk(directory.path(), script, &[MIB, 30 * MIB]);
    let resize = |sectors: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(sectors * 512).unwrap();
    };
    let list = listed(&map_file(&path));
    resize(DISK_SECTORS + 8 * MIB);
    let enlarged = map_file(&path);
    assert_eq!((free(&enlarged), listed(&enlarged)), (expected, list));
    assert_eq!(listed(&enlarged), partx(&path, 512));
    assert_eq!(
        enlarged.warnings[0].cause,
        Cause::Incompatible(Incompatible::GptBackupMisplaced {
            sector: DISK_SECTORS - 1,
            last: DISK_SECTORS + 8 * MIB - 1,
        })
    );
    assert_eq!(enlarged.warnings[0].effect, Effect::NoneLost);
    assert!(map_strict(&FileSource::open(&path)).is_ok());
    // Now the backup cannot be found without the primary.
    patch(&path, 512, &[0]);
    let damaged = map_file(&path);
    assert_eq!(
        (free(&damaged), damaged.warnings[0].effect),
        (vec![], Effect::RawDisk)
    );
    patch(&path, 512, b"E");
    // A table for more sectors than there are contradicts the disk.
    resize(DISK_SECTORS - MIB);
    let truncated = map_file(&path);
    assert_eq!(
        (free(&truncated), truncated.warnings[0].effect),
        (vec![], Effect::RawDisk)
    );
}

#[test]
fn large_tables_and_large_entries() {
    if !tools() || !has_tool("partx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut options = "-S 256 -a 1".to_owned();
    for number in 1..=200 {
        options += &format!(" -n {number}:{}:+4K", 4000 + number * 10);
    }
    let script = Script::Sgdisk(Box::leak(options.into_boxed_str()));
    let (path, _) = disk(directory.path(), script, &[]);
    let map = map_file(&path);
    assert_eq!((listed(&map), map.warnings.len()), (partx(&path, 512), 0));
    assert_eq!(map.partitions.len(), 200);
    std::fs::remove_file(&path).unwrap();

    // Entries of 256 bytes, half as many.
    let script = Script::Sgdisk("-n 1:2048:+21M -n 2:0:+8M -n 64:0:+21M");
    let (path, expected) = disk(directory.path(), script, &[MIB, 30 * MIB]);
    let mut bytes = std::fs::read(&path).unwrap();
    for (header, table) in [(512, 1024), (bytes.len() - 512, bytes.len() - 33 * 512)] {
        for number in (0..64).rev() {
            let entry = bytes[table + 128 * number..][..128].to_vec();
            bytes[table + 256 * number..][..128].copy_from_slice(&entry);
            bytes[table + 256 * number + 128..][..128].fill(0);
        }
        bytes[header + 80] = 64;
        bytes[header + 84..header + 88].copy_from_slice(&256_u32.to_le_bytes());
    }
    sign_both(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    let map = map_file(&path);
    assert_eq!((free(&map), map.warnings.len()), (expected, 0));
    // The specification allows them; libblkid and the kernel do not read them.
    let numbers: Vec<_> = map.partitions.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 2, 64]);
}

#[test]
fn disks_of_other_projects() {
    if !has_tool("partx") || !has_tool("sfdisk") {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/diskmap/tables");
    let cases = [
        ("gpt-512.img", 512, TableKind::Gpt, 2),
        ("gpt-4096.img", 4096, TableKind::Gpt, 2),
        ("gpt-damaged-primary.img", 512, TableKind::Gpt, 2),
        ("mbr.img", 512, TableKind::Mbr, 2),
        ("mbr-logical.img", 512, TableKind::Mbr, 6),
    ];
    for (name, sector_size, kind, count) in cases {
        let path = directory.join(name);
        assert_eq!(
            diskmap::detect_sector_size(&FileSource::open(&path)),
            sector_size
        );
        let map = map_with(&path, sector_size);
        let mut expected = partx(&path, sector_size);
        expected.retain(|&(number, ..)| name != "mbr-logical.img" || number != 2);
        assert_eq!(listed(&map), expected, "{name}");
        assert_eq!((map.table, map.partitions.len()), (kind, count));
        let effects: Vec<_> = map.warnings.iter().map(|warning| warning.effect).collect();
        let damaged: &[Effect] = if name.contains("damaged") {
            &[Effect::BackupUsed]
        } else {
            &[]
        };
        assert_eq!(effects, damaged, "{name}");
    }
    // The backup alone tells the sector size too.
    let mut bytes = std::fs::read(directory.join("gpt-4096.img")).unwrap();
    bytes[4096] = 0;
    assert_eq!(diskmap::detect_sector_size(&bytes), 4096);
}

#[test]
fn boot_sectors_of_filesystems_are_no_tables() {
    let tools = ["mkfs.fat", "mkntfs", "mkfs.exfat", "partx"];
    if !tools.iter().all(|tool| has_tool(tool)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let makers = [
        "mkfs.fat -F 12 --mbr=n -C -s 64",
        "mkfs.fat -F 16 --mbr=n",
        "mkfs.fat -F 32 --mbr=n",
        "mkntfs -F -q -Q -s 512 -p 0 -H 1 -S 1",
        "mkfs.exfat",
    ];
    for maker in makers {
        sparse(&path, 64 << 20);
        let maker = maker.replace(" -C", "");
        run(&format!("{maker} {}", path.display()), "");
        let map = map_file(&path);
        assert_eq!(map.table, TableKind::None, "{maker}");
        assert_eq!(listed(&map), [(0, 0, 64 * MIB)]);
        // The same with bytes in the place of the table that could be one: nobody knows.
        let slot = &boot_record(&[(0x83, 2048, 2048)])[446..462];
        patch(&path, 446, slot);
        let map = map_file(&path);
        assert_eq!(free(&map), []);
        assert!(
            matches!(
                map.warnings[0].cause,
                Cause::Incompatible(Incompatible::Ambiguous { .. })
            ),
            "{maker}"
        );
    }
    // A table of one partition that begins with the boot sector itself, for Windows.
    sparse(&path, 64 << 20);
    run(&format!("mkfs.fat -F 32 --mbr=y {}", path.display()), "");
    let fat = map_file(&path);
    assert_eq!(listed(&fat), [(1, 0, 64 * MIB)]);
    assert_eq!(fat.warnings, []);
    // Boot code and no slot: no table, and no FAT either.
    let mut bytes = vec![0; 1 << 20];
    bytes[..512].copy_from_slice(&sector_with_signature());
    bytes[..440].fill(0x90);
    let code = map(&bytes);
    assert_eq!(code.table, TableKind::None);
    assert_eq!(free(&code), []);
}
