//! Partition tables made by sgdisk and sfdisk, sound and damaged, and who owns which sector.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::tables::{
    DISK_SECTORS, GPT, GPT_EXT, MBR, MBR_EXT, MIB, Script, disk, map_file, patch,
    sector_with_signature, tools,
};
use common::{
    FileSource, check, dumpe2fs_free, free, is_root, is_subset, make_ext, map, map_strict, run,
    skip, sparse,
};
use diskmap::{Cause, Corrupt, Effect, Error, Extent, Incompatible, Options, TableKind};

#[test]
fn gpt_partitions_and_gaps() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, mut expected) = disk(directory.path(), Script::Sgdisk(GPT), &GPT_EXT);
    let swap = directory.path().join("swap");
    sparse(&swap, 8 << 20);
    run(&format!("mkswap {}", swap.display()), "");
    patch(&path, 22 * MIB * 512, &std::fs::read(&swap).unwrap());
    // All of the swap area but its first page.
    let pages = Extent {
        first: 22 * MIB + 8,
        count: 8 * MIB - 8,
    };
    expected.push(pages);
    expected.sort_unstable();

    let map = map_file(&path);
    assert_eq!(map.table, TableKind::Gpt);
    assert_eq!(map.warnings, []);
    assert_eq!(free(&map), expected);
    let list: Vec<_> = map
        .partitions
        .iter()
        .map(|p| (p.number, p.first, p.contents.kind))
        .collect();
    assert_eq!(
        list,
        [
            (1, MIB, "ext4"),
            (2, 22 * MIB, "swap"),
            (3, 51 * MIB, "raw"),
            (4, 30 * MIB, "ext4"),
        ]
    );
    assert_eq!(map.partitions[0].name.as_deref(), Some("boot"));
    assert_eq!(map.partitions[2].saved_sectors, map.partitions[2].count);
    assert_eq!(map.partitions[1].saved_sectors, 8);
    assert_eq!(map.partitions[1].contents.raw, None);
    assert!(map_strict(&FileSource::open(&path)).is_ok());

    let raw = diskmap::map(
        &FileSource::open(&path),
        &Options {
            raw: true,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(
        raw.saved,
        [Extent {
            first: 0,
            count: DISK_SECTORS
        }]
    );
    assert_eq!(raw.table, TableKind::None);
}

#[test]
fn gpt_damage_never_frees_more() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sgdisk(GPT), &GPT_EXT);
    let end = DISK_SECTORS * 512;
    let cases: [(&[u64], &[Effect], Corrupt); 6] = [
        (
            &[512 + 72],
            &[Effect::BackupUsed],
            Corrupt::GptHeaderChecksum,
        ),
        (&[512], &[Effect::BackupUsed], Corrupt::GptSignature),
        (
            &[1024 + 40],
            &[Effect::BackupUsed],
            Corrupt::GptEntriesChecksum,
        ),
        (
            &[end - 512 + 40],
            &[Effect::PrimaryUsed],
            Corrupt::GptHeaderChecksum,
        ),
        (
            &[end - 33 * 512],
            &[Effect::PrimaryUsed],
            Corrupt::GptEntriesChecksum,
        ),
        (
            &[600, end - 500],
            &[Effect::RawDisk],
            Corrupt::GptHeaderChecksum,
        ),
    ];
    let intact = std::fs::read(&path).unwrap();
    for (offsets, effects, kind) in cases {
        let mut bytes = intact.clone();
        for &offset in offsets {
            bytes[usize::try_from(offset).unwrap()] ^= 0x5a;
        }
        let map = map(&bytes);
        let found: Vec<_> = map.warnings.iter().map(|warning| warning.effect).collect();
        assert_eq!(found, effects);
        assert_eq!(map.warnings[0].cause, Cause::Corrupt(kind.clone()));
        let raw = effects == [Effect::RawDisk];
        assert_eq!(free(&map), if raw { vec![] } else { expected.clone() });
        assert!(
            matches!(map_strict(&bytes), Err(Error::Corrupt { kind: strict, .. }) if strict == kind)
        );
    }
}

#[test]
fn gpt_needs_its_protective_entry() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = disk(directory.path(), Script::Sgdisk(GPT), &GPT_EXT);
    for sector in [[0; 512], sector_with_signature()] {
        patch(&path, 0, &sector);
        let map = map_file(&path);
        assert_eq!(free(&map), []);
        assert_eq!(
            map.warnings[0].cause,
            Cause::Incompatible(Incompatible::NoProtectiveEntry)
        );
        assert_eq!(map.warnings[0].effect, Effect::RawDisk);
    }
}

#[test]
fn mbr_with_logical_partitions() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sfdisk(MBR), &MBR_EXT);
    let map = map_file(&path);
    assert_eq!((map.table, &map.warnings[..]), (TableKind::Mbr, &[][..]));
    assert_eq!(free(&map), expected);
    let list: Vec<_> = map
        .partitions
        .iter()
        .map(|p| (p.number, p.first, p.count))
        .collect();
    assert_eq!(list, sfdisk_list(&path));
}

/// Number, first sector and count of every partition but the extended one, by `sfdisk -d`.
fn sfdisk_list(path: &Path) -> Vec<(u32, u64, u64)> {
    let dump = run(&format!("sfdisk -d {}", path.display()), "");
    let value = |line: &str, name: &str| {
        line.split([':', ','])
            .find_map(|word| word.trim().strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    dump.lines()
        .filter(|line| line.contains("start=") && value(line, "type=") != "5")
        .map(|line| {
            let number = line
                .split(' ')
                .next()
                .unwrap()
                .strip_prefix(path.to_str().unwrap())
                .unwrap();
            (
                number.parse().unwrap(),
                value(line, "start=").parse().unwrap(),
                value(line, "size=").parse().unwrap(),
            )
        })
        .collect()
}

#[test]
fn broken_chains_of_logical_partitions_end() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sfdisk(MBR), &MBR_EXT);
    let first = 61_440 * 512;
    let intact = std::fs::read(&path).unwrap();
    let link = usize::try_from(first + 446 + 16 + 8).unwrap();
    let signature = usize::try_from(first + 510).unwrap();
    let cases: [(usize, [u8; 4]); 4] = [
        (link, [0; 4]),                    // back to itself
        (link, [0xff; 4]),                 // out of the disk
        (link, 307_201_u32.to_le_bytes()), // out of the extended partition
        (signature, [0, 0, 0, 0]),         // no boot record
    ];
    for (at, value) in cases {
        let mut bytes = intact.clone();
        bytes[at..at + 4].copy_from_slice(&value);
        let map = map(&bytes);
        check(&map);
        assert_eq!(map.warnings.len(), 1, "{:?}", map.warnings);
        assert_eq!(map.warnings[0].effect, Effect::ChainCut);
        assert!(is_subset(&free(&map), &expected));
        assert!(matches!(
            map_strict(&bytes),
            Err(Error::Corrupt {
                kind: Corrupt::ExtendedChain(_),
                ..
            })
        ));
    }
}

/// Number, first sector and count by libblkid, in sectors of 512 bytes.
fn partx_list(device: &str) -> Vec<(u32, u64, u64)> {
    let text = run(&format!("partx -g -o NR,START,SECTORS {device}"), "");
    text.lines()
        .map(|line| {
            let mut words = line
                .split_whitespace()
                .map(|word| word.parse::<u64>().unwrap());
            let mut next = || words.next().unwrap();
            (u32::try_from(next()).unwrap(), next(), next())
        })
        .collect()
}

/// Attaches a file to a loop device for as long as it lives.
struct Loop(String);

impl Loop {
    fn new(path: &Path, sector_size: u32) -> Self {
        let line = format!("losetup -f --show -b {sector_size} {}", path.display());
        Self(run(&line, "").trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(&format!("losetup -d {}", self.0), "");
    }
}

#[test]
fn libblkid_sees_the_same_partitions() {
    if !is_root() {
        return skip("loop devices need root");
    }
    let directory = tempfile::tempdir().unwrap();
    for sector_size in [512, 4096] {
        let scale = u64::from(sector_size / 512);
        for script in [
            Script::Sgdisk("-n 1:0:+21M -n 2:0:+8M -n 7:0:0"),
            Script::Sfdisk("label: dos\n,20M\n,20M\n,100M,E\n,5M,82\n,10M\n,20M\n"),
        ] {
            let path = directory.path().join("disk");
            sparse(&path, DISK_SECTORS * 512);
            let device = Loop::new(&path, sector_size);
            match script {
                Script::Sgdisk(options) => run(&format!("sgdisk {options} {}", device.0), ""),
                Script::Sfdisk(lines) => run(&format!("sfdisk -q {}", device.0), lines),
            };
            let source = FileSource::open(&path);
            let options = Options {
                sector_size,
                strict: true,
                ..Options::default()
            };
            let map = diskmap::map(&source, &options).unwrap();
            let mut list: Vec<_> = map
                .partitions
                .iter()
                .map(|p| (p.number, p.first * scale, p.count * scale))
                .collect();
            list.sort_unstable();
            let mut expected = partx_list(&device.0);
            if map.table == TableKind::Mbr {
                // The extended partition is listed too.
                expected.retain(|&(number, ..)| number != 3);
                assert_eq!(diskmap::detect_sector_size(&source), 512);
            } else {
                assert_eq!(diskmap::detect_sector_size(&source), sector_size);
            }
            assert!(list.len() >= 3);
            assert_eq!(list, expected);
        }
    }
}

#[test]
fn sectors_larger_than_blocks_are_freed_only_whole() {
    if !tools() || !is_root() {
        return skip("loop devices need root");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    sparse(&path, 64 << 20);
    {
        let device = Loop::new(&path, 4096);
        run(&format!("sgdisk -n 1:0:+40M {}", device.0), "");
    }
    let part = directory.path().join("part");
    make_ext(&part, 40 << 20, "-t ext4 -b 1024");
    let source = FileSource::open(&path);
    let first = diskmap::map(
        &source,
        &Options {
            sector_size: 4096,
            ..Options::default()
        },
    )
    .unwrap()
    .partitions[0]
        .first;
    patch(&path, first * 4096, &std::fs::read(&part).unwrap());
    let map = diskmap::map(
        &source,
        &Options {
            sector_size: 4096,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(map.warnings, []);
    let expected: Vec<Extent> = dumpe2fs_free(&part)
        .iter()
        .map(|run| (run.first.div_ceil(8), run.end() / 8))
        .filter(|(from, to)| from < to)
        .map(|(from, to)| Extent {
            first: first + from,
            count: to - from,
        })
        .collect();
    assert_eq!(free(&map), expected);
}
