//! Damaged ext filesystems: every field that is checked, and random damage everywhere.
//!
//! One rule decides: a map of the damaged filesystem never calls free what the intact one used.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::OnceLock;

use common::{check, free, has_tool, is_subset, make_ext, map, map_strict, run, sparse};
use crc::{Algorithm, CRC_16_MODBUS, CRC_32_ISCSI, Crc};
use diskmap::{Cause, Corrupt, Error, Extent, Incompatible, ReadAt};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// CRC-32C as ext4 uses it, without the final inversion.
const CRC32C: Crc<u32> = Crc::<u32>::new(&Algorithm {
    xorout: 0,
    ..CRC_32_ISCSI
});
/// CRC-16 as ext4 uses it.
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
const SUPERBLOCK: usize = 1024;

/// A small filesystem of several groups and where its parts lie.
struct Sample {
    bytes: Vec<u8>,
    free: Vec<Extent>,
    descriptors: std::ops::Range<usize>,
    bitmaps: Vec<usize>,
}

impl Sample {
    fn new(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let fixed = "-U 6f1c2c1e-5b0f-4c8e-9d7a-2f4b8a3e1d00 -E hash_seed=6f1c2c1e-5b0f-4c8e-9d7a-2f4b8a3e1d01";
        make_ext(&path, 30 << 20, &format!("-b 1024 {fixed} {options}"));
        let text = run(&format!("dumpe2fs {}", path.display()), "");
        let bitmaps: Vec<usize> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Block bitmap at "))
            .map(|line| {
                line.split([' ', ','])
                    .next()
                    .unwrap()
                    .parse::<usize>()
                    .unwrap()
                    * 1024
            })
            .collect();
        let wide = text
            .lines()
            .any(|line| line.starts_with("Filesystem features:") && line.contains("64bit"));
        let len = bitmaps.len() * if wide { 64 } else { 32 };
        let bytes = std::fs::read(&path).unwrap();
        let map = map(&bytes);
        assert_eq!(map.warnings, []);
        Self {
            free: free(&map),
            descriptors: 2048..2048 + len,
            bitmaps,
            bytes,
        }
    }

    /// The strict error after `edit`, with the checksum of the superblock made right again.
    fn error_after(&self, edit: impl FnOnce(&mut [u8])) -> Error {
        let mut bytes = self.bytes.clone();
        edit(&mut bytes);
        fix_superblock(&mut bytes);
        let map = map(&bytes);
        assert_eq!(free(&map), [], "a warning means a raw copy");
        map_strict(&bytes).unwrap_err()
    }
}

/// metadata_csum with wide and short descriptors, gdt_csum, no checksums. `None` if mke2fs is missing.
fn samples() -> Option<&'static [Sample; 4]> {
    static SAMPLES: OnceLock<[Sample; 4]> = OnceLock::new();
    if !has_tool("mke2fs") || !has_tool("debugfs") {
        return None;
    }
    Some(SAMPLES.get_or_init(|| {
        [
            "-t ext4",
            "-t ext4 -O ^64bit",
            "-t ext4 -O ^metadata_csum,uninit_bg",
            "-t ext4 -O ^metadata_csum,^uninit_bg",
        ]
        .map(Sample::new)
    }))
}

fn fix_superblock(bytes: &mut [u8]) {
    let superblock = &mut bytes[SUPERBLOCK..SUPERBLOCK + 1024];
    let metadata_csum = superblock[0x65] & 4 != 0;
    if metadata_csum {
        let checksum = CRC32C.checksum(&superblock[..0x3fc]);
        superblock[0x3fc..].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn kind(error: &Error) -> Cause {
    match error {
        Error::Incompatible { kind, .. } => kind.clone().into(),
        Error::Corrupt { kind, .. } => kind.clone().into(),
        other => panic!("{other}"),
    }
}

const DESCRIPTOR: &str = "descriptor of ext block group";

fn unsupported(what: &'static str) -> Cause {
    let filesystem = "ext";
    Incompatible::Unsupported { filesystem, what }.into()
}

fn not_clean(what: &'static str) -> Cause {
    Cause::from(Incompatible::NotClean {
        filesystem: "ext",
        what,
        remedy: "unmount it or run e2fsck",
    })
}

fn features(set: &'static str, bits: u64) -> Cause {
    Cause::from(Incompatible::Features {
        filesystem: "ext",
        set,
        bits,
    })
}

fn checksum(structure: &'static str, number: u64) -> Corrupt {
    Corrupt::Checksum { structure, number }
}

fn conflict(structure: &'static str, block: u32) -> Cause {
    let block = block.into();
    Corrupt::Conflict { structure, block }.into()
}

#[test]
fn each_field_of_the_superblock_is_checked() {
    let Some([sample, ..]) = samples() else {
        return;
    };
    let le32 = |at: usize| {
        let field = &sample.bytes[SUPERBLOCK + at..][..4];
        u32::from_le_bytes(field.try_into().unwrap())
    };
    let field = |field, value: u32| {
        Cause::from(Corrupt::Field {
            structure: "ext superblock",
            field,
            value: value.into(),
        })
    };
    let size = |blocks: u64| {
        let partition = u64::try_from(sample.bytes.len()).unwrap();
        Cause::from(Corrupt::LargerThanPartition {
            filesystem: "ext",
            bytes: blocks * 1024,
            partition,
        })
    };
    let cases: Vec<(usize, u32, Cause)> = vec![
        (0x00, le32(0x00) + 8, field("inodes_count", le32(0x00) + 8)),
        (0x04, 40_000, size(40_000)),
        (0x04, 1, field("blocks_count", 1)),
        (0x04, le32(0x04) - 8192, field("inodes_count", le32(0x00))),
        (0x14, 0, field("first_data_block", 0)),
        (0x18, 7, field("log_block_size", 7)),
        (0x18, u32::MAX, field("log_block_size", u32::MAX)),
        (0x1c, 1, field("log_cluster_size", 1)),
        (0x20, 0, field("clusters_per_group", 0)),
        (0x20, 8193, field("clusters_per_group", 8193)),
        (0x20, 8200, field("clusters_per_group", 8200)),
        (0x20, 128, field("blocks_per_group", 128)),
        (0x28, 0, field("inodes_per_group", 0)),
        (0x28, 8200, field("inodes_per_group", 8200)),
        (0x4c, 2, unsupported("has a revision later than 1")),
        (0x58, 192, field("inode_size", 192)),
        (0x58, 2048, field("inode_size", 2048)),
        (0x58, 256 | 3 << 16, field("block_group_nr", 3)),
        (0x5c, le32(0x5c) | 0x8000, features("compat", 0x8000)),
        (
            0x60,
            le32(0x60) | 0x8000_0000,
            features("incompat", 0x8000_0000),
        ),
        (0x60, le32(0x60) | 1, features("incompat", 1)),
        (
            0x60,
            le32(0x60) | 4,
            not_clean("has a journal that needs recovery"),
        ),
        (
            0x60,
            le32(0x60) | 8,
            unsupported("is the journal of a filesystem on another device"),
        ),
        (0x64, le32(0x64) | 0x80, features("ro_compat", 0x80)),
        (0xe0, 0, unsupported("has its journal on another device")),
        (0xfc, 48 << 16, field("desc_size", 48)),
        (0xfc, 96 << 16, field("desc_size", 96)),
        (0xfc, 2048 << 16, field("desc_size", 2048)),
        (0x150, 1, size(1 << 32 | u64::from(le32(0x04)))),
        (
            0x150,
            0x3f_ffff,
            size(0x3f_ffff << 32 | u64::from(le32(0x04))),
        ),
    ];
    for (at, value, expected) in cases {
        let error = sample.error_after(|bytes| {
            bytes[SUPERBLOCK + at..][..4].copy_from_slice(&value.to_le_bytes());
        });
        assert_eq!(kind(&error), expected, "{at:#x} = {value:#x}");
    }
    // Two-byte and one-byte fields next to others that must stay.
    let cases: [(usize, &[u8], Cause); 5] = [
        (0x3a, &[0, 0], not_clean("is not marked clean")),
        (0x3a, &[3, 0], not_clean("is not marked clean")),
        (0xce, &[1, 1], field("reserved_gdt_blocks", 257)),
        (0x175, &[2], unsupported("has checksums other than CRC-32C")),
        (0x68, &[0], checksum(DESCRIPTOR, 0).into()),
    ];
    for (at, value, expected) in cases {
        let error = sample.error_after(|bytes| {
            bytes[SUPERBLOCK + at..][..value.len()].copy_from_slice(value);
        });
        assert_eq!(kind(&error), expected, "{at:#x}");
    }
}

#[test]
fn checksums_are_checked() {
    let Some([wide, short, gdt, none]) = samples() else {
        return;
    };
    for (sample, at, expected) in [
        (
            wide,
            SUPERBLOCK + 0x78,
            checksum("ext superblock at byte", 1024),
        ),
        (
            wide,
            wide.descriptors.start + 64 + 0x2c,
            checksum(DESCRIPTOR, 1),
        ),
        (short, short.descriptors.start + 32, checksum(DESCRIPTOR, 1)),
        (
            gdt,
            gdt.descriptors.start + 64 + 0x1e,
            checksum(DESCRIPTOR, 1),
        ),
        (
            wide,
            wide.bitmaps[0] + 1000,
            checksum("block bitmap of ext block group", 0),
        ),
        (
            short,
            short.bitmaps[0] + 1000,
            checksum("block bitmap of ext block group", 0),
        ),
    ] {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1;
        assert_eq!(
            kind(&map_strict(&bytes).unwrap_err()),
            Cause::Corrupt(expected)
        );
        assert_eq!(free(&map(&bytes)), []);
    }
    // Without a checksum the count of free blocks tells.
    let error = none.error_after(|bytes| bytes[none.bitmaps[1] + 1000] ^= 1);
    assert!(
        matches!(
            kind(&error),
            Cause::Corrupt(Corrupt::Count {
                what: "free clusters of an ext block group",
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn metadata_in_impossible_places_is_found() {
    let Some([.., sample]) = samples() else {
        return;
    };
    let block = |group: usize, at: usize| {
        let field = &sample.bytes[sample.descriptors.start + group * 64 + at..][..4];
        u32::from_le_bytes(field.try_into().unwrap())
    };
    let edit = |group: usize, at: usize, value: u32| {
        kind(&sample.error_after(|bytes| {
            let start = sample.descriptors.start + group * 64 + at;
            bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
        }))
    };
    for (at, value) in [
        (0, 0),
        (0, u32::MAX),
        (4, 30 << 10),
        (8, (30 << 10) - 3),
        (0x20, 1),
    ] {
        let found = edit(2, at, value);
        let outside = matches!(found, Cause::Corrupt(Corrupt::Outside { .. }));
        assert!(outside, "{at:#x} = {value}: {found}");
    }
    // The bitmap of another group, whose free count may well be the same.
    let other = block(1, 0);
    assert_eq!(
        edit(2, 0, other),
        conflict("two pieces of ext metadata", other)
    );
    // A superblock backup, and a free block, as the inode bitmap.
    assert_eq!(
        edit(2, 4, 8193),
        conflict("two pieces of ext metadata", 8193)
    );
    let free = u32::try_from(sample.free.last().unwrap().first / 2).unwrap();
    assert_eq!(
        edit(2, 4, free),
        conflict("ext metadata, and free space by the bitmap", free)
    );
}

#[test]
fn an_uninitialised_group_keeps_the_metadata_of_others() {
    if samples().is_none() {
        return;
    }
    // Group 2 holds nothing but the bitmaps and inode tables of itself and of group 3.
    let sample = Sample::new("-t ext4 -G 2 -O ^metadata_csum,uninit_bg");
    let mut bytes = sample.bytes.clone();
    let descriptor = sample.descriptors.start + 2 * 64;
    let group_2 = 2 * 8192 + 1..3 * 8192 + 1;
    assert!(group_2.contains(&(sample.bitmaps[3] / 1024)));
    assert_eq!(
        bytes[descriptor + 0x12] & 2,
        0,
        "mke2fs initialises such a group"
    );
    bytes[descriptor + 0x12] |= 2;
    bytes[sample.bitmaps[2]..][..1024].fill(0);
    let mut digest = CRC16.digest();
    digest.update(&bytes[SUPERBLOCK + 0x68..][..16]);
    digest.update(&2_u32.to_le_bytes());
    digest.update(&bytes[descriptor..][..0x1e]);
    digest.update(&bytes[descriptor + 0x20..][..0x20]);
    bytes[descriptor + 0x1e..][..2].copy_from_slice(&digest.finalize().to_le_bytes());
    let map = map_strict(&bytes).unwrap();
    assert_eq!(free(&map), sample.free);
}

#[test]
fn an_external_journal_device_is_copied_raw() {
    if !has_tool("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    sparse(&path, 16 << 20);
    run(
        &format!("mke2fs -q -F -b 4096 -O journal_dev {}", path.display()),
        "",
    );
    let error = map_strict(&std::fs::read(&path).unwrap()).unwrap_err();
    assert_eq!(
        kind(&error),
        unsupported("is the journal of a filesystem on another device")
    );
}

/// An image with some bytes changed, without copying it.
struct Patched<'a> {
    base: &'a [u8],
    patches: Vec<(usize, u8)>,
}

impl Patched<'_> {
    fn superblock(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        self.read_exact_at(&mut bytes, 1024).unwrap();
        bytes
    }

    /// Makes the checksum of the superblock right again.
    fn fix(&mut self) {
        let checksum = CRC32C.checksum(&self.superblock()[..0x3fc]).to_le_bytes();
        self.patches.retain(|&(at, _)| !(2044..2048).contains(&at));
        for (at, byte) in (2044..).zip(checksum) {
            self.patches.push((at, byte ^ self.base[at]));
        }
    }
}

impl ReadAt for Patched<'_> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.base.read_exact_at(buf, offset)?;
        let offset = usize::try_from(offset).unwrap();
        for &(at, xor) in &self.patches {
            if let Some(byte) = at.checked_sub(offset).and_then(|index| buf.get_mut(index)) {
                *byte ^= xor;
            }
        }
        Ok(())
    }
}

/// A byte of the metadata of a sample: superblock, descriptors or bitmaps.
fn place(sample: &Sample, region: u8, at: usize) -> usize {
    match region {
        0 => SUPERBLOCK + at % 1024,
        1 => sample.descriptors.start + at % sample.descriptors.len(),
        _ => sample.bitmaps[at % sample.bitmaps.len()] + at / 8 % 1024,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Wherever a checksum covers the damage, nothing used becomes free.
    #[test]
    fn damage_under_a_checksum_frees_nothing(
        which in 0..3_usize,
        damage in prop::collection::vec((0..3_u8, any::<usize>(), 1..=255_u8), 1..5),
    ) {
        let Some(samples) = samples() else { return Ok(()) };
        let sample = &samples[which];
        // gdt_csum covers the descriptors only.
        let region = |region| if which == 2 { 1 } else { region };
        let patches = damage.iter().map(|&(r, at, xor)| (place(sample, region(r), at), xor)).collect();
        let damaged = map(&Patched { base: &sample.bytes, patches });
        check(&damaged);
        prop_assert!(is_subset(&free(&damaged), &sample.free), "{:?}", damaged.warnings);
    }

    /// Behind a matching checksum any superblock is survived, and metadata stays saved.
    #[test]
    fn no_superblock_is_too_strange(
        which in 0..4_usize,
        damage in prop::collection::vec((0..0x120_usize, any::<u8>()), 1..4),
    ) {
        let Some(samples) = samples() else { return Ok(()) };
        let sample = &samples[which];
        let patches = damage.iter().map(|&(at, xor)| (SUPERBLOCK + at, xor)).collect();
        let mut source = Patched { base: &sample.bytes, patches };
        if which < 2 {
            source.fix();
        }
        let damaged = map(&source);
        check(&damaged);
        prop_assert!(damaged.saved.first().is_some_and(|e| e.first == 0 && e.count >= 4));
    }

    /// One changed byte is told even without checksums, by the counts and places.
    #[test]
    fn one_damaged_byte_of_a_bitmap_or_place_frees_nothing(
        region in 1..3_u8, at in any::<usize>(), bit in 0..8_u8,
    ) {
        let Some([.., sample]) = samples() else { return Ok(()) };
        let patches = vec![(place(sample, region, at), 1 << bit)];
        let damaged = map(&Patched { base: &sample.bytes, patches });
        check(&damaged);
        prop_assert!(is_subset(&free(&damaged), &sample.free), "{:?}", damaged.warnings);
    }
}
