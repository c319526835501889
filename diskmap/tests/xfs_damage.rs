//! Damaged XFS filesystems: every structure the map rests on, byte by byte, and at random.
//!
//! One rule decides: a map of the damaged filesystem never calls free what the intact one used.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::OnceLock;

use common::overwrite::{Flipped, scratch};
use common::xfs::{self, db, field, tools};
use common::{check, free, is_subset, map};
use diskmap::{Cause, Corrupt, Extent, Incompatible, ReadAt};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// An image and where its structures lie.
struct Sample {
    bytes: Vec<u8>,
    free: Vec<Extent>,
    /// What has a checksum with version 5.
    structures: Vec<std::ops::Range<usize>>,
    log: std::ops::Range<usize>,
    is_v5: bool,
}

impl Sample {
    fn new(options: &str) -> Self {
        let directory = scratch();
        let path = directory.path().join("disk");
        let mut files = xfs::make(&path, 36, &format!("{options} -d agcount=2 -l agnum=1"));
        xfs::punch(&path, &mut files);
        let superblock = db(&path, &["sb 0", "p"]);
        let get = |name: &str| usize::try_from(field(&superblock, name)).unwrap();
        let (block, sector) = (get("blocksize"), get("sectsize"));
        let mut structures = Vec::new();
        for group in 0..get("agcount") {
            let start = group * get("agblocks") * block;
            structures.extend((0..4).map(|at| start + at * sector..start + (at + 1) * sector));
            let free_space = db(&path, &[&format!("agf {group}"), "p"]);
            let inodes = db(&path, &[&format!("agi {group}"), "p"]);
            for (header, tree) in [
                (&free_space, "bnoroot"),
                (&free_space, "cntroot"),
                (&inodes, "root"),
            ] {
                let at = start + usize::try_from(field(header, tree)).unwrap() * block;
                structures.push(at..at + block);
            }
        }
        let log_start = field(&superblock, "logstart") >> field(&superblock, "agblklog");
        assert_eq!(log_start, 1);
        let in_group = field(&superblock, "logstart") & ((1 << field(&superblock, "agblklog")) - 1);
        let log = (get("agblocks") + usize::try_from(in_group).unwrap()) * block;
        let bytes = std::fs::read(&path).unwrap();
        let map = map(&bytes);
        assert_eq!(map.warnings, []);
        Self {
            free: free(&map),
            structures,
            log: log..log + get("logblocks") * block,
            is_v5: !options.contains("crc=0"),
            bytes,
        }
    }

    fn free_with(&self, at: usize, mask: u8) -> Vec<Extent> {
        let bytes = &self.bytes;
        let map = map(&Flipped { bytes, at, mask });
        check(&map);
        free(&map)
    }
}

fn samples() -> Option<&'static [Sample]> {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    let make = || {
        [
            "-b size=1024",
            "-m rmapbt=1",
            "-m crc=0 -b size=512 -i size=256",
            "-m crc=0 -s size=4096",
        ]
        .map(Sample::new)
        .into()
    };
    tools().then(|| SAMPLES.get_or_init(make).as_slice())
}

#[test]
fn no_byte_of_a_structure_can_be_wrong() {
    for sample in samples().unwrap_or_default() {
        assert!(sample.free.len() > 50);
        for range in &sample.structures {
            for at in range.clone().step_by(19) {
                let found = sample.free_with(at, 0x04);
                // Without checksums fields that do not matter may be wrong.
                let harmless = !sample.is_v5 && found == sample.free;
                assert!(found.is_empty() || harmless, "byte {at} of {range:?}");
            }
        }
    }
}

#[test]
fn every_field_of_the_free_space_counts() {
    for sample in samples().unwrap_or_default() {
        let trees = sample.structures.iter().skip(4).take(2);
        let header = if sample.is_v5 { 56 } else { 16 };
        // The head of a root, and its first entries; places, numbers, lengths of the header.
        for range in trees {
            for at in (0..16).chain(header..header + 64) {
                let found = sample.free_with(range.start + at, 0x01);
                // In the keys of a node only the half counts that it is sorted by.
                let harmless = at >= header && found == sample.free;
                assert!(found.is_empty() || harmless, "byte {at}");
            }
        }
        for at in (0..24).chain(28..36).chain(40..60) {
            let start = sample.structures[1].start;
            assert_eq!(sample.free_with(start + at, 0x01), [], "byte {at}");
        }
    }
}

#[test]
fn a_log_with_more_than_an_unmount_is_not_clean() {
    for sample in samples().unwrap_or_default() {
        let cause = |edit: &dyn Fn(&mut [u8])| {
            let mut bytes = sample.bytes.clone();
            edit(&mut bytes[sample.log.clone()]);
            let map = map(&bytes);
            let found = free(&map);
            assert!(found.is_empty() || found == sample.free);
            map.warnings.first().map(|warning| warning.cause.clone())
        };
        let dirty = |edit: &dyn Fn(&mut [u8])| {
            let cause = cause(edit);
            assert!(
                matches!(
                    cause,
                    Some(Cause::Incompatible(Incompatible::NotClean { .. }))
                ),
                "{cause:?}"
            );
        };
        let swap = |from: usize, to: usize| {
            move |log: &mut [u8]| {
                let block: [u8; 512] = *log[from * 512..].first_chunk().unwrap();
                log[to * 512..(to + 1) * 512].copy_from_slice(&block);
            }
        };
        // Magic, cycle, version, length, place, operations, owner.
        for at in [0, 7, 11, 14, 19, 23, 43, 310] {
            dirty(&|log: &mut [u8]| log[at] ^= 0x01);
        }
        // Client, flags and magic of the unmount.
        for at in [8, 9, 12, 13] {
            dirty(&|log: &mut [u8]| log[512 + at] ^= 0x20);
        }
        // Something was written behind it, nearby or not.
        let log = &sample.bytes[sample.log.clone()];
        let len = u32::from_be_bytes(*log[12..].first_chunk().unwrap());
        let head = 1 + usize::try_from(len).unwrap().div_ceil(512);
        dirty(&swap(1, head));
        dirty(&swap(0, head + 1));
        dirty(&swap(1, 2000));
        // A log that was never written, and one that only begins so.
        assert_eq!(cause(&|log: &mut [u8]| log.fill(0)), None);
        dirty(&|log: &mut [u8]| {
            log.fill(0);
            log[5000] = 1;
        });
    }
}

#[test]
fn unknown_features_are_told() {
    let Some([sample, ..]) = samples() else {
        return;
    };
    // A bit of each set; the checksum is right.
    for (at, bit) in [
        (211, 1),
        (215, 0x10),
        (218, 2),
        (219, 0x10),
        (223, 2),
        (21, 1),
    ] {
        let mut bytes = sample.bytes.clone();
        bytes[at] |= bit;
        bytes[224..228].fill(0);
        let sector = u32::from_be_bytes([0, 0, bytes[102], bytes[103]]);
        let sector = usize::try_from(sector).unwrap();
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes[..sector]);
        bytes[224..228].copy_from_slice(&sum.to_le_bytes());
        let map = map(&bytes);
        assert_eq!(free(&map), []);
        let cause = &map.warnings[0].cause;
        assert!(matches!(cause, Cause::Incompatible(_)), "{cause}");
    }
}

#[test]
fn a_truncated_filesystem_is_told() {
    for sample in samples().unwrap_or_default() {
        let end = sample.bytes.len() - (1 << 20);
        let map = map(&&sample.bytes[..end]);
        assert_eq!(free(&map), []);
        assert!(matches!(
            map.warnings[0].cause,
            Cause::Corrupt(Corrupt::LargerThanPartition { .. })
        ));
    }
}

/// Several bytes changed.
struct Patched<'a> {
    bytes: &'a [u8],
    patches: &'a [(usize, u8)],
}

impl ReadAt for Patched<'_> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.bytes.read_exact_at(buf, offset)?;
        let start = usize::try_from(offset).unwrap();
        for (at, value) in self.patches {
            if let Some(byte) = at.checked_sub(start).and_then(|at| buf.get_mut(at)) {
                *byte = *value;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_damage_frees_nothing(
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..12),
        which in any::<prop::sample::Index>(),
    ) {
        let Some(samples) = samples() else {
            return Ok(());
        };
        let sample = which.get(samples);
        let patches: Vec<(usize, u8)> = patches
            .iter()
            .map(|(range, at, value)| {
                let range = range.get(&sample.structures);
                (range.start + at.index(range.len()), *value)
            })
            .collect();
        let map = map(&Patched { bytes: &sample.bytes, patches: &patches });
        check(&map);
        // Whole structures must change together to be believed; a few bytes do not.
        prop_assert!(is_subset(&free(&map), &sample.free));
    }
}
