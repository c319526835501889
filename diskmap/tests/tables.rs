//! Partition tables made by sgdisk and sfdisk, sound and damaged, and who owns which sector.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{
    FileSource, check, dumpe2fs_free, free, has_tool, is_root, is_subset, make_ext, map,
    map_strict, run, skip, sparse,
};
use diskmap::{
    Cause, Corrupt, DiskMap, Effect, Error, Extent, Filesystem, Incompatible, Options, TableKind,
};
use proptest::prelude::*;

const MIB: u64 = 2048;
const DISK_SECTORS: u64 = 200 * MIB;

/// A disk with a table made by `tool` from `script`, and ext filesystems of 20 MiB put where
/// `filesystems` says. Returns its path and the sectors that dumpe2fs calls free.
fn disk(directory: &Path, script: Script, filesystems: &[u64]) -> (PathBuf, Vec<Extent>) {
    let path = directory.join("disk");
    sparse(&path, DISK_SECTORS * 512);
    match script {
        Script::Sgdisk(options) => run(&format!("sgdisk {options} {}", path.display()), ""),
        Script::Sfdisk(lines) => run(&format!("sfdisk -q {}", path.display()), lines),
    };
    let mut expected = Vec::new();
    for (number, &first) in filesystems.iter().enumerate() {
        let part = directory.join(format!("part{number}"));
        make_ext(&part, 20 << 20, "-t ext4 -b 1024");
        let bytes = std::fs::read(&part).unwrap();
        patch(&path, first * 512, &bytes);
        let shift = |run: Extent| Extent {
            first: run.first + first,
            count: run.count,
        };
        expected.extend(dumpe2fs_free(&part).into_iter().map(shift));
    }
    expected.sort_unstable();
    (path, expected)
}

enum Script {
    Sgdisk(&'static str),
    Sfdisk(&'static str),
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

fn map_file(path: &Path) -> DiskMap {
    let map = map(&FileSource::open(path));
    check(&map);
    map
}

/// Two ext partitions, one swap area, one unformatted; 21 MiB where the filesystem has 20.
const GPT: &str = "-n 1:2048:+21M -c 1:boot -n 2:0:+8M -n 4:0:+21M -n 3:0:+30M";
const GPT_EXT: [u64; 2] = [MIB, 30 * MIB];
const MBR: &str = "label: dos\n\
    2048,43008,83,*\n\
    ,16384,82\n\
    61440,307200,5\n\
    368640,,83\n\
    63488,43008,83\n\
    108544,8192,83\n\
    120832,43008,83\n";
const MBR_EXT: [u64; 3] = [2048, 63488, 120_832];

fn tools() -> bool {
    ["sgdisk", "sfdisk", "mke2fs", "mkswap"]
        .iter()
        .all(|tool| has_tool(tool))
}

#[test]
fn gpt_partitions_and_gaps() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sgdisk(GPT), &GPT_EXT);
    let swap = directory.path().join("swap");
    sparse(&swap, 8 << 20);
    run(&format!("mkswap {}", swap.display()), "");
    patch(&path, 22 * MIB * 512, &std::fs::read(&swap).unwrap());

    let map = map_file(&path);
    assert_eq!(map.table, TableKind::Gpt);
    assert_eq!(map.warnings, []);
    assert_eq!(free(&map), expected);
    let list: Vec<_> = map
        .partitions
        .iter()
        .map(|p| (p.number, p.first, p.kind.to_string()))
        .collect();
    assert_eq!(
        list,
        [
            (1, MIB, "ext4".into()),
            (2, 22 * MIB, "swap".into()),
            (3, 51 * MIB, "raw".into()),
            (4, 30 * MIB, "ext4".into()),
        ]
    );
    assert_eq!(map.partitions[0].name.as_deref(), Some("boot"));
    assert_eq!(map.partitions[2].saved_sectors, map.partitions[2].count);
    assert_eq!(
        map.partitions[1].note.as_deref(),
        Some("swap is not parsed")
    );
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

fn sector_with_signature() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
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

/// Slot `index` of the MBR: first sector and count.
fn set_slot(bytes: &mut [u8], index: usize, first: u32, count: u32) {
    let at = 446 + 16 * index + 8;
    bytes[at..at + 4].copy_from_slice(&first.to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
}

#[test]
fn overlapping_and_outlying_partitions_are_copied_raw() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sfdisk(MBR), &MBR_EXT);
    let without_first: Vec<Extent> = expected
        .iter()
        .copied()
        .filter(|e| e.first >= 63_488)
        .collect();
    let intact = std::fs::read(&path).unwrap();

    let mut bytes = intact.clone();
    set_slot(&mut bytes, 1, 40_000, 6000);
    let overlap = map(&bytes);
    assert_eq!(free(&overlap), without_first);
    assert_eq!(overlap.warnings.len(), 2);
    assert_eq!(
        overlap.warnings[0].cause,
        Cause::Corrupt(Corrupt::PartitionOverlap)
    );

    let mut bytes = intact.clone();
    set_slot(&mut bytes, 0, 2048, u32::MAX);
    let outside = map(&bytes);
    check(&outside);
    let last = u64::from(u32::MAX) + 2047;
    assert_eq!(
        outside.warnings[0].cause,
        Cause::Corrupt(Corrupt::PartitionOutside { first: 2048, last })
    );
    assert_eq!(free(&outside), []);

    // A primary partition that reaches into the extended one, and into the first logical one.
    let mut bytes = intact;
    for (count, raw_until) in [(61_440, 63_488), (61_441, 120_832)] {
        set_slot(&mut bytes, 0, 2048, count);
        let rest = expected.partition_point(|e| e.first < raw_until);
        assert_eq!(free(&map(&bytes)), expected[rest..]);
    }
}

#[test]
fn a_table_under_a_filesystem_is_not_believed() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = disk(directory.path(), Script::Sfdisk(MBR), &MBR_EXT);
    let sector = std::fs::read(&path).unwrap()[..512].to_vec();
    let whole = directory.path().join("whole");
    make_ext(&whole, DISK_SECTORS * 512, "-t ext4");
    let expected = dumpe2fs_free(&whole);
    assert_eq!(free(&map_file(&whole)), expected);

    // A boot sector without partitions does no harm.
    patch(&whole, 0, &sector_with_signature());
    assert_eq!(free(&map_file(&whole)), expected);

    patch(&whole, 0, &sector);
    let map = map_file(&whole);
    assert_eq!(free(&map), []);
    let kind = Incompatible::Ambiguous {
        first: "a partition table",
        second: "ext",
    };
    assert_eq!(map.warnings[0].cause, Cause::Incompatible(kind));
}

#[test]
fn a_partition_with_two_owners_is_copied_raw() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sgdisk(GPT), &GPT_EXT);
    for magic in [&b"LUKS\xba\xbe"[..], b"XFSB"] {
        patch(&path, MIB * 512, magic);
        let map = map_file(&path);
        assert_eq!(
            free(&map),
            expected[expected.partition_point(|e| e.first < 30 * MIB)..]
        );
        assert!(matches!(
            map.warnings[0].cause,
            Cause::Incompatible(Incompatible::Ambiguous { .. })
        ));
        assert_eq!(map.warnings[0].effect, Effect::RawPartition);
        assert_eq!(map.partitions[0].kind, Filesystem::Raw);
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

#[test]
fn sizes_are_checked() {
    let options = |sector_size| Options {
        sector_size,
        ..Options::default()
    };
    assert!(matches!(
        diskmap::map(&vec![0; 4096], &options(500)),
        Err(Error::SectorSize(500))
    ));
    let partial = diskmap::map(&vec![0; 1025], &options(512));
    assert!(matches!(
        partial,
        Err(Error::PartialSector {
            size: 1025,
            sector_size: 512
        })
    ));
    for sectors in 0..80 {
        let map = map(&vec![0xff; sectors * 512]);
        check(&map);
        assert_eq!(free(&map), []);
    }
}

/// A disk whose sector 0 can be read and nothing else.
struct Broken;

impl diskmap::ReadAt for Broken {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        buf.fill(0);
        if offset == 0 && buf.len() <= 512 {
            Ok(())
        } else {
            Err(std::io::Error::other("bad sector"))
        }
    }
}

#[test]
fn an_unreadable_disk_is_an_error_not_a_raw_copy() {
    let error = diskmap::map(&Broken, &Options::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Io {
                offset: 512,
                length: 512,
                ..
            }
        ),
        "{error}"
    );
}

proptest! {
    /// Whatever sector 0 says, nothing is freed that no filesystem calls free.
    #[test]
    fn random_tables_free_nothing(slots in prop::array::uniform4((0..3_u8, 0..4_u8, 0..300_u32, 0..300_u32)), fill in any::<u64>()) {
        let mut bytes: Vec<u8> = (0..128 * 512_u64).map(|at| (at.wrapping_mul(fill) >> 32).to_le_bytes()[0]).collect();
        // Boot records everywhere, so that chains wander.
        for sector in bytes.chunks_exact_mut(512) {
            for (index, &(flag, kind, first, count)) in slots.iter().enumerate() {
                let at = 446 + 16 * index;
                sector[at] = [0, 0, 0x80][usize::from(flag)];
                sector[at + 4] = [0, 0x05, 0x83, 0x0f][usize::from(kind)];
                set_slot(sector, index, first, count);
            }
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
        }
        let map = map(&bytes);
        check(&map);
        prop_assert_eq!(free(&map), []);
    }
}
