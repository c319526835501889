//! Disks that contradict themselves, have two owners, or cannot be read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::tables::{
    DISK_SECTORS, GPT, GPT_EXT, MBR, MBR_EXT, MIB, Script, disk, map_file, patch,
    sector_with_signature, set_slot, tools,
};
use common::{check, dumpe2fs_free, free, make_ext, map};
use diskmap::{Cause, Corrupt, Effect, Error, Extent, Incompatible, Options};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The disk of a virtual machine in a partition, over an older filesystem.
#[test]
fn a_table_in_a_partition_makes_it_raw() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, expected) = disk(directory.path(), Script::Sfdisk(MBR), &MBR_EXT);
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 2048 * 512;
    let mut sector = bytes[start..start + 512].to_vec();
    set_slot(&mut sector, 0, 100, 1000);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes[start..start + 512].copy_from_slice(&sector);
    let map = map(&bytes);
    check(&map);
    let [warning] = &map.warnings[..] else {
        panic!("{:?}", map.warnings)
    };
    assert_eq!(warning.effect, Effect::RawPartition);
    let ambiguous = matches!(
        warning.cause,
        Cause::Incompatible(Incompatible::Ambiguous { .. })
    );
    assert!(ambiguous, "{warning}");
    let rest = expected.partition_point(|run| run.first < 63_488);
    assert!(rest > 0);
    assert_eq!(free(&map), expected[rest..]);
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
    let signatures: [(u64, &[u8]); 8] = [
        (0, b"LUKS\xba\xbe"),
        (0, b"XFSB"),
        (3, b"ReFS\0"),
        (0, b"dmvdo001"),
        (32, b"ORCLDISK"),
        (65536, &[0x01, 0x16, 0x19, 0x70]),
        (1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
        (2 << 20, &[0x5e, 0xf1, 0xab, 0x2f]),
    ];
    let whole = std::fs::read(&path).unwrap();
    for (offset, magic) in signatures {
        let at = MIB * 512 + offset;
        patch(&path, at, magic);
        let map = map_file(&path);
        let start = usize::try_from(at).unwrap();
        patch(&path, at, &whole[start..start + magic.len()]);
        assert_eq!(
            free(&map),
            expected[expected.partition_point(|e| e.first < 30 * MIB)..]
        );
        assert!(matches!(
            map.warnings[0].cause,
            Cause::Incompatible(Incompatible::Ambiguous { .. })
        ));
        assert_eq!(map.warnings[0].effect, Effect::RawPartition);
        assert_eq!(map.partitions[0].contents.kind, "raw");
    }
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
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

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
