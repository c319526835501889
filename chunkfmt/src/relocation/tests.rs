//! Tests of relocating, with labels and LILO sectors made by hand.

use super::label::{LABEL_HEAD, LABEL_MAGIC};
use super::*;
use proptest::prelude::*;

const PLACE: PartitionPlace = PartitionPlace {
    first_sector: 1000,
    sectors: 5000,
};

fn entry(kind: u32, sector: u64, offset: u32, size: u64) -> Relocation {
    Relocation {
        kind,
        offset,
        sector,
        size,
    }
}

fn one(sector: u64, bytes: &[u8]) -> BTreeMap<u64, [u8; SECTOR_SIZE]> {
    let mut data = [0; SECTOR_SIZE];
    data[..bytes.len()].copy_from_slice(bytes);
    BTreeMap::from([(sector, data)])
}

/// A label with the given entries (size, offset), checksum not set.
fn label(entries: &[(u32, u32)]) -> Vec<u8> {
    let mut label = vec![0; LABEL_HEAD];
    label[..4].copy_from_slice(&[0x57, 0x45, 0x56, 0x82]);
    label[132..136].copy_from_slice(&[0x57, 0x45, 0x56, 0x82]);
    label[138..140].copy_from_slice(&u16::try_from(entries.len()).unwrap().to_le_bytes());
    for (size, offset) in entries {
        label.extend(size.to_le_bytes());
        label.extend(offset.to_le_bytes());
        label.extend([0; 8]);
    }
    label
}

fn label_entries(sector: &[u8; SECTOR_SIZE], count: usize) -> Vec<(u32, u32)> {
    let word = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap());
    (0..count)
        .map(|i| (word(148 + 16 * i), word(152 + 16 * i)))
        .collect()
}

#[test]
fn an_entry_has_the_documented_layout() {
    let bytes: [u8; 24] = [
        5, 0, 0, 0, 7, 1, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
    ];
    let parsed = Relocation::parse(&bytes);
    assert_eq!(parsed, entry(5, 0x1_0000_0009, 0x107, 2));
    assert_eq!(parsed.to_bytes(), bytes);
}

#[test]
fn a_label_is_moved_and_cut_to_the_partition() {
    let entries = [(3000, 0), (9000, 3000), (7000, 0), (0, 17), (10, 6000)];
    let mut sectors = one(1, &label(&entries));
    apply(
        &[entry(FREEBSD_LABEL, 1, 0, 276)],
        Some(PLACE),
        &mut sectors,
    )
    .unwrap();
    let sector = sectors[&1];
    assert_eq!(
        label_entries(&sector, 5),
        [(3000, 1000), (2000, 4000), (5000, 1000), (0, 17), (0, 7000)]
    );
    assert_eq!(
        xor_words(&sector[..148 + 80], 0),
        0,
        "the words of a label with its checksum give zero"
    );
}

#[test]
fn the_whole_slice_entry_grows_with_the_partition() {
    let mut sectors = one(1, &label(&[(1, 0), (0, 0), (4000, 0)]));
    apply(
        &[entry(FREEBSD_LABEL, 1, 0, 276)],
        Some(PLACE),
        &mut sectors,
    )
    .unwrap();
    assert_eq!(
        label_entries(&sectors[&1], 3),
        [(1, 1000), (0, 0), (5000, 1000)]
    );
}

#[test]
fn absolute_entries_of_an_openbsd_label_stay() {
    let mut sectors = one(1, &label(&[(10, 5); 16]));
    apply(
        &[entry(OPENBSD_LABEL, 1, 0, 276)],
        Some(PLACE),
        &mut sectors,
    )
    .unwrap();
    for (index, found) in label_entries(&sectors[&1], 16).into_iter().enumerate() {
        let stays = index == 2 || index >= 8;
        assert_eq!(
            found,
            if stays { (10, 5) } else { (10, 1005) },
            "entry {index}"
        );
    }
}

#[test]
fn a_label_stays_as_it_is_on_a_whole_disk() {
    let before = one(1, &label(&[(10, 5)]));
    let mut after = before.clone();
    apply(&[entry(FREEBSD_LABEL, 1, 0, 276)], None, &mut after).unwrap();
    assert_eq!(before, after);
}

#[test]
fn what_is_no_label_is_refused() {
    let relocation = [entry(FREEBSD_LABEL, 1, 0, 276)];
    let bad = Err(RelocationError::NotALabel { sector: 1 });
    let mut second_magic = label(&[(10, 5)]);
    second_magic[132] ^= 1;
    assert_eq!(
        apply(&relocation, Some(PLACE), &mut one(1, &second_magic)),
        bad
    );
    let mut entries = label(&[(10, 5)]);
    entries[138..140].copy_from_slice(&[23, 0]);
    assert_eq!(apply(&relocation, Some(PLACE), &mut one(1, &entries)), bad);
    let far = PartitionPlace {
        first_sector: 1 << 32,
        sectors: 10,
    };
    let answer = apply(&relocation, Some(far), &mut one(1, &label(&[(10, 5)])));
    assert_eq!(answer, Err(RelocationError::TooFar { sector: 1 }));
}

#[test]
fn lilo_addresses_keep_their_form() {
    let moved = |address: [u8; 5], start: u64| {
        let place = PartitionPlace {
            first_sector: start,
            sectors: 1 << 20,
        };
        let mut sectors = one(7, &address);
        apply(&[entry(LILO_ADDRESS, 7, 0, 5)], Some(place), &mut sectors)
            .map(|_| sectors[&7][..5].to_vec())
    };
    let far = Err(RelocationError::TooFar { sector: 7 });
    // Linear: 24 bits, the last byte is a count.
    assert_eq!(
        moved([0x10, 0, 0xC0, 0, 3], 0x2_0100).unwrap(),
        [0x10, 1, 0xC0, 2, 3]
    );
    // LBA32 with a count: 24 bits too.
    assert_eq!(
        moved([0xFF, 0xFF, 0xA0, 0, 3], 1).unwrap(),
        [0, 0, 0xA0, 1, 3]
    );
    assert_eq!(moved([0xFF, 0xFF, 0xA0, 0xFF, 3], 1), far);
    // LBA32 without a count: 32 bits.
    assert_eq!(
        moved([0xFF, 0xFF, 0xB0, 0xFF, 3], 1).unwrap(),
        [0, 0, 0xB0, 0, 4]
    );
    assert_eq!(moved([0xFF, 0xFF, 0xB0, 0xFF, 0xFF], 1), far);
    // CHS and none stay.
    assert_eq!(moved([1, 2, 0x80, 3, 4], 99).unwrap(), [1, 2, 0x80, 3, 4]);
    assert_eq!(moved([0; 5], 99).unwrap(), [0; 5]);
}

#[test]
fn an_address_over_two_sectors_is_moved() {
    let mut sectors = one(0, &[0; 512]);
    sectors.get_mut(&0).unwrap()[511] = 0x01;
    sectors.insert(1, [0; 512]);
    sectors.get_mut(&1).unwrap()[1] = 0x40;
    apply(&[entry(LILO_ADDRESS, 0, 511, 5)], Some(PLACE), &mut sectors).unwrap();
    assert_eq!(
        (sectors[&0][511], sectors[&1][0]),
        (0xE9, 0x03),
        "1 + 1000 = 0x3E9"
    );
}

#[test]
fn a_map_ends_with_the_first_empty_address() {
    let mut map = Vec::new();
    for address in [
        [1, 0, 0x40, 0, 1],
        [2, 0, 0x40, 0, 1],
        [0; 5],
        [3, 0, 0x40, 0, 1],
    ] {
        map.extend(address);
    }
    let place = PartitionPlace {
        first_sector: 16,
        sectors: 1,
    };
    let mut sectors = one(3, &map);
    apply(&[entry(LILO_MAP, 3, 0, 512)], Some(place), &mut sectors).unwrap();
    assert_eq!([0, 5, 10, 15].map(|at| sectors[&3][at]), [17, 18, 0, 3]);
}

#[test]
fn a_short_sector_gives_the_length_and_unknown_kinds_are_named() {
    let entries = [
        entry(SHORT_SECTOR, 242, 0, 419),
        entry(100, 3, 0, 0),
        entry(GPT_FIX, 1, 0, 512),
    ];
    let applied = apply(&entries, None, &mut BTreeMap::new()).unwrap();
    assert_eq!(
        applied,
        Applied {
            final_length: Some(124_323),
            unknown: vec![100]
        }
    );
}

#[test]
fn entries_outside_of_the_regions_are_refused() {
    let regions = [(10, 5), (15, 5), (30, 1)];
    let good = [
        entry(LILO_MAP, 10, 0, 512),
        entry(LILO_ADDRESS, 14, 511, 5),
        entry(LILO_CHECKSUM, 16, 478, 2),
        entry(SHORT_SECTOR, 30, 0, 1),
        entry(100, 5, 9999, 7),
    ];
    check(&good, &regions).unwrap();
    let bad = [
        entry(LILO_MAP, 9, 0, 512),
        entry(LILO_MAP, 20, 0, 512),
        entry(LILO_ADDRESS, 19, 510, 5),
        entry(LILO_CHECKSUM, 11, 100, 2),
        entry(LILO_CHECKSUM, 19, 479, 2),
        entry(SHORT_SECTOR, 19, 0, 1),
    ];
    for relocation in bad {
        let answer = check(&[relocation], &regions);
        assert!(
            matches!(answer, Err(RelocationError::Outside { .. })),
            "{relocation:?}: {answer:?}"
        );
    }
    assert!(check(&[entry(LILO_MAP, 10, 0, 512)], &[]).is_err());
}

#[test]
fn impossible_sizes_and_offsets_are_refused() {
    let bad = [
        entry(FREEBSD_LABEL, 1, 0, 100),
        entry(FREEBSD_LABEL, 1, 300, 276),
        entry(FREEBSD_LABEL, 1, 513, 276),
        entry(LILO_ADDRESS, 1, 0, 4),
        entry(LILO_ADDRESS, 1, 512, 5),
        entry(LILO_MAP, 1, 1, 512),
        entry(LILO_MAP, 1, 0, 511),
        entry(LILO_CHECKSUM, 1, 477, 2),
        entry(SHORT_SECTOR, 1, 0, 0),
        entry(SHORT_SECTOR, 1, 0, 512),
        entry(SHORT_SECTOR, 1, 1, 5),
        entry(LILO_ADDRESS, u64::MAX / 512 + 1, 0, 5),
        entry(LILO_ADDRESS, u64::MAX / 512, 511, 5),
    ];
    for relocation in bad {
        let answer = check(&[relocation], &[(0, u64::MAX)]);
        assert!(
            matches!(answer, Err(RelocationError::Malformed { .. })),
            "{relocation:?}: {answer:?}"
        );
    }
}

proptest! {
    #[test]
    fn parsing_and_writing_are_inverse(bytes: [u8; 24]) {
        prop_assert_eq!(Relocation::parse(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn no_entry_makes_it_panic(
        kind in 0_u32..9, offset in prop_oneof![0_u32..600, any::<u32>()],
        sector in prop_oneof![0_u64..6, any::<u64>()], size in prop_oneof![0_u64..600, any::<u64>()],
        content: [u8; 16], first: u64, length: u64,
    ) {
        let relocation = [entry(kind, sector, offset, size)];
        let regions = [(0, 4)];
        let mut sectors = BTreeMap::new();
        for number in 0..4 {
            let mut data = [0; SECTOR_SIZE];
            for (to, from) in data.iter_mut().zip(content.iter().cycle()) {
                *to = *from;
            }
            data[..4].copy_from_slice(&LABEL_MAGIC.to_le_bytes());
            data[132..136].copy_from_slice(&LABEL_MAGIC.to_le_bytes());
            sectors.insert(number, data);
        }
        let place = PartitionPlace { first_sector: first, sectors: length };
        if check(&relocation, &regions).is_ok() {
            let answer = apply(&relocation, Some(place), &mut sectors);
            let refused_late = matches!(
                answer,
                Err(RelocationError::Outside { .. } | RelocationError::Malformed { .. })
            );
            prop_assert!(!refused_late);
        } else {
            let _ = apply(&relocation, Some(place), &mut sectors);
        }
    }
}
