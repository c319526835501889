//! Block signature files of the C program are read, agree with its images, and give the same deltas.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Disk, golden, restore, restore_over};
use ndz::{Demand, Error, HashKind, Place, Region, Signature};
use proptest::prelude::*;
use sha1::{Digest, Sha1};

const SECTORS: u64 = 786_432;

fn region(first: u64, sectors: u64) -> Region {
    Region { first, sectors }
}

fn merged(regions: impl IntoIterator<Item = Region>) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for next in regions {
        match all.last_mut() {
            Some(last) if last.end() == next.first => last.sectors += next.sectors,
            _ => all.push(next),
        }
    }
    all
}

#[test]
fn hashes_of_the_c_program_match_its_images() {
    let base = restore(&golden("v3-ext4.ndz")).unwrap();
    let both = restore_over(
        base.disk.clone(),
        &golden("v3-ext4-delta.ndz"),
        Place::WholeDisk,
        None,
        Demand::Nothing,
    );
    let new_ranges = [
        ("v3-ext4.ndz.sig", base.ranges(), base.disk),
        ("v3-ext4-delta.ndz.sig", vec![], both.unwrap().disk),
    ];
    for (name, ranges, disk) in new_ranges {
        let signature = Signature::parse(&golden(name)).unwrap();
        assert_eq!(
            (signature.hash_kind(), signature.block_sectors()),
            (HashKind::Sha1, 128)
        );
        assert!(!signature.entries().is_empty());
        for entry in signature.entries() {
            let mut data = disk.get(entry.sectors);
            assert!(
                signature.matches(entry, &data),
                "{name}: {:?}",
                entry.sectors
            );
            data[0] ^= 1;
            assert!(!signature.matches(entry, &data));
            assert!(!signature.matches(entry, &data[512..]));
        }
        if !ranges.is_empty() {
            assert_eq!(
                merged(signature.entries().iter().map(|entry| entry.sectors)),
                ranges,
                "{name}"
            );
        }
    }
}

#[test]
fn a_delta_holds_what_the_c_programs_delta_holds() {
    let base = restore(&golden("v3-ext4.ndz")).unwrap();
    let delta = restore_over(
        base.disk,
        &golden("v3-ext4-delta.ndz"),
        Place::WholeDisk,
        None,
        Demand::Nothing,
    )
    .unwrap();
    let old = Signature::parse(&golden("v3-ext4.ndz.sig")).unwrap();
    let new = Signature::parse(&golden("v3-ext4-delta.ndz.sig")).unwrap();
    let allocated = merged(new.entries().iter().map(|entry| entry.sectors));
    let changed = old
        .changed(&allocated, &[], SECTORS, |first, buffer| {
            delta.disk.read(first, buffer);
            Ok(())
        })
        .unwrap();
    assert_eq!(changed, merged(delta.regions.iter().flatten().copied()));
    assert_eq!(
        changed.iter().map(|region| region.sectors).sum::<u64>(),
        1008
    );
}

#[test]
fn an_unchanged_disk_gives_an_empty_delta() {
    let base = restore(&golden("v3-ext4.ndz")).unwrap();
    let signature = Signature::parse(&golden("v3-ext4.ndz.sig")).unwrap();
    let read = |first: u64, buffer: &mut [u8]| {
        base.disk.read(first, buffer);
        Ok(())
    };
    assert_eq!(
        signature
            .changed(&base.ranges(), &[], SECTORS, read)
            .unwrap(),
        []
    );
    // An entry that a fixup overlaps is included, whatever its hash.
    let entry = signature.entries()[3].sectors;
    let fixup = [region(entry.first + 5, 1)];
    assert_eq!(
        signature
            .changed(&base.ranges(), &fixup, SECTORS, read)
            .unwrap(),
        [entry]
    );
}

/// A signature file with blocks of 8 sectors.
fn file(version: u32, hash: u32, block: u32, entries: &[(u32, u32, u32, [u8; 20])]) -> Vec<u8> {
    let mut file = b".ndzsig\0".to_vec();
    for word in [version, hash, entries.len() as u32, block, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for (first, sectors, chunk, hash) in entries {
        file.extend(
            [
                first.to_le_bytes(),
                sectors.to_le_bytes(),
                chunk.to_le_bytes(),
            ]
            .concat(),
        );
        file.extend(hash);
    }
    file
}

const V1: u32 = 0x2003_1107;
const V2: u32 = 0x2014_0618;

#[test]
fn both_versions_and_both_hashes_are_read() {
    let data = [7_u8; 1024];
    let sha1: [u8; 20] = Sha1::digest(data).into();
    // md5sum of 1024 bytes 07.
    let mut md5 = [0; 20];
    let hex = "254a7725306413d2a8e39ad05ffa018a";
    for (at, byte) in md5.iter_mut().take(16).enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    }
    for (version, block, expected_block) in
        [(V1, 0, 128), (V1, 128, 128), (V2, 8, 8), (V2, 65536, 65536)]
    {
        for (kind, number, hash) in [(HashKind::Md5, 1, md5), (HashKind::Sha1, 2, sha1)] {
            let parsed =
                Signature::parse(&file(version, number, block, &[(5, 2, 0x8000_0007, hash)]))
                    .unwrap();
            assert_eq!(
                (parsed.hash_kind(), parsed.block_sectors()),
                (kind, expected_block)
            );
            let entry = parsed.entries()[0];
            assert_eq!(
                (entry.sectors, entry.chunk, entry.spans_chunks),
                (region(5, 2), 7, true)
            );
            assert!(parsed.matches(&entry, &data));
            assert!(!parsed.matches(&entry, &[8; 1024]));
        }
    }
}

#[test]
fn malformed_signature_files_are_refused() {
    let entry = (0, 1, 0, [1; 20]);
    let good = file(V2, 2, 8, &[entry]);
    assert!(Signature::parse(&good).is_ok());
    let mut wrong_magic = good.clone();
    wrong_magic[0] = b'x';
    let mut not_zero = good.clone();
    not_zero[31] = 1;
    let mut count = good.clone();
    count[16] = 2;
    let mut huge_count = good.clone();
    huge_count[16..20].fill(0xFF);
    for bad in [
        vec![],
        good[..31].to_vec(),
        good[..63].to_vec(),
        [good.as_slice(), &[0]].concat(),
        wrong_magic,
        not_zero,
        count,
        huge_count,
        file(0x2022_0101, 2, 8, &[entry]),
        file(V2, 0, 8, &[entry]),
        file(V2, 3, 8, &[entry]),
        file(V2, 4, 8, &[entry]),
        file(V2, 2, 0, &[entry]),
        file(V2, 2, 65537, &[entry]),
    ] {
        assert!(
            matches!(Signature::parse(&bad), Err(Error::SignatureFile { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn impossible_entries_are_refused() {
    let hash = [1; 20];
    let mut long = [0; 20];
    long[16] = 1;
    for (number, bad) in [
        (0, file(V2, 2, 8, &[(0, 0, 100, hash)])),
        (0, file(V2, 2, 8, &[(0, 9, 0, hash)])),
        (0, file(V2, 2, 8, &[(7, 2, 0, hash)])),
        (0, file(V2, 2, 8, &[(u32::MAX, 2, 0, hash)])),
        (1, file(V2, 2, 8, &[(0, 8, 0, hash), (0, 8, 0, hash)])),
        (1, file(V2, 2, 8, &[(8, 8, 0, hash), (0, 8, 0, hash)])),
        (1, file(V2, 2, 8, &[(0, 5, 0, hash), (4, 2, 0, hash)])),
        (0, file(V2, 1, 8, &[(0, 5, 0, long)])),
    ] {
        let answer = Signature::parse(&bad);
        assert!(
            matches!(answer, Err(Error::SignatureEntry { entry, .. }) if entry == number),
            "{answer:?}"
        );
    }
    // The last possible sector.
    assert!(Signature::parse(&file(V2, 2, 8, &[(u32::MAX, 1, 0, hash)])).is_ok());
}

#[test]
fn bad_ranges_and_read_errors_are_reported() {
    let signature = Signature::parse(&file(V2, 2, 8, &[(0, 8, 0, [1; 20])])).unwrap();
    let fine = |_: u64, _: &mut [u8]| Ok(());
    for bad in [
        vec![region(5, 0)],
        vec![region(5, 2), region(6, 2)],
        vec![region(5, 2), region(1, 2)],
        vec![region(90, 11)],
    ] {
        assert!(matches!(
            signature.changed(&bad, &[], 100, fine),
            Err(Error::Usage(_))
        ));
    }
    let failing = |_: u64, _: &mut [u8]| Err(std::io::Error::other("bad sector"));
    let answer = signature.changed(&[region(0, 1)], &[], 100, failing);
    assert!(matches!(answer, Err(Error::ReadDisk { sector: 0, .. })));
}

#[test]
fn an_entry_beyond_the_disk_is_changed_without_reading() {
    let signature = Signature::parse(&file(V2, 2, 8, &[(0, 8, 0, [1; 20])])).unwrap();
    let never = |_: u64, _: &mut [u8]| panic!("must not be read");
    assert_eq!(
        signature.changed(&[region(1, 4)], &[], 5, never).unwrap(),
        [region(1, 4)]
    );
}

#[test]
fn large_blocks_are_hashed_in_pieces() {
    let data: Vec<u8> = (0..5000_u32 * 512).map(|at| (at / 3) as u8).collect();
    let mut disk = Disk::default();
    disk.write(100, &data);
    let hash = Sha1::digest(&data).into();
    let signature = Signature::parse(&file(V2, 2, 65536, &[(100, 5000, 0, hash)])).unwrap();
    let mut reads = Vec::new();
    let changed = signature.changed(
        &[region(200, 50), region(300, 5)],
        &[],
        9000,
        |first, buffer: &mut [u8]| {
            reads.push((first, buffer.len() / 512));
            disk.read(first, buffer);
            Ok(())
        },
    );
    assert_eq!(changed.unwrap(), []);
    assert_eq!(
        reads,
        [(100, 2048), (2148, 2048), (4196, 904)],
        "once, although two ranges are in the block"
    );
}

fn regions(up_to: u64) -> impl Strategy<Value = Vec<Region>> {
    prop::collection::vec((0_u64..6, 1_u64..12), 0..20).prop_map(move |steps| {
        let mut at = 0;
        let mut regions = Vec::new();
        for (gap, sectors) in steps {
            at += gap;
            if at + sectors <= up_to {
                regions.push(region(at, sectors));
            }
            at += sectors;
        }
        regions
    })
}

proptest! {
    #[test]
    fn a_delta_holds_every_changed_allocated_sector_and_no_free_one(
        old in regions(150), new in regions(150), flips in prop::collection::vec(0_u64..150, 0..8),
    ) {
        let mut before = Disk::default();
        before.write(0, &(0..150 * 512_u32).map(|at| (at / 512 * 3) as u8).collect::<Vec<_>>());
        let mut entries = Vec::new();
        for range in &old {
            let mut at = range.first;
            while at < range.end() {
                let end = range.end().min((at / 8 + 1) * 8);
                let hash = Sha1::digest(before.get(region(at, end - at))).into();
                entries.push((at as u32, (end - at) as u32, 0, hash));
                at = end;
            }
        }
        let signature = Signature::parse(&file(V2, 2, 8, &entries)).unwrap();
        let mut after = before.clone();
        for sector in &flips {
            after.0.get_mut(sector).unwrap()[17] ^= 0x80;
        }
        let changed = signature.changed(&new, &[], 150, |first, buffer| {
            after.read(first, buffer);
            Ok(())
        }).unwrap();
        let differs = |sector: u64| after.0[&sector] != before.0[&sector];
        for sector in 0..150 {
            let is_in = |regions: &[Region]| regions.iter().any(|region| (region.first..region.end()).contains(&sector));
            let entry = entries.iter().find(|entry| (entry.0..entry.0 + entry.1).contains(&(sector as u32)));
            let expected = is_in(&new)
                && entry.is_none_or(|entry| (entry.0..entry.0 + entry.1).any(|sector| differs(sector.into())));
            prop_assert_eq!(is_in(&changed), expected, "sector {}", sector);
        }
        prop_assert!(changed.windows(2).all(|pair| pair[0].end() < pair[1].first));
    }

    #[test]
    fn arbitrary_signature_files_do_not_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Signature::parse(&bytes);
        let mut file = file(V2, 2, 8, &[]);
        file[16] = (bytes.len() / 32) as u8;
        file.extend(bytes);
        let _ = Signature::parse(&file);
    }
}
