//! What the writer makes is read back, is cut as the C program cuts, and keeps to the format's limits.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Disk, Restored, golden, restore, restore_with};
use ndz::{
    CHUNK_SIZE, Chunk, DATA_SIZE, Demand, Error, ImageId, Place, Plan, Region, Relocation, Version,
    Writer,
};
use proptest::prelude::*;

fn region(first: u64, sectors: u64) -> Region {
    Region { first, sectors }
}

fn plan(version: Version, ranges: &[Region], disk_sectors: Option<u64>) -> Plan {
    Plan {
        version,
        image_id: None,
        ranges: ranges.to_vec(),
        disk_sectors,
        relocations: Vec::new(),
        level: 4,
    }
}

fn write(plan: Plan, disk: &Disk) -> Result<Vec<u8>, Error> {
    let mut image = Vec::new();
    let mut next = 0;
    let chunks = Writer::new(plan)?.write_to(&mut image, |first, buffer| {
        assert!(first >= next && buffer.len() <= 128 << 10 && !buffer.is_empty());
        next = first + buffer.len() as u64 / 512;
        disk.read(first, buffer);
        Ok(())
    })?;
    assert_eq!(image.len(), chunks as usize * CHUNK_SIZE);
    Ok(image)
}

fn refused(plan: Plan) {
    assert!(matches!(Writer::new(plan).map(drop), Err(Error::Usage(_))));
}

/// A disk whose sectors are what a generator makes of them; `noise` of 256 cannot be compressed.
fn noisy(sectors: u64, noise: u64) -> Disk {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut byte = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) % noise) as u8
    };
    Disk(
        (0..sectors)
            .map(|sector| (sector, std::array::from_fn(|_| byte())))
            .collect(),
    )
}

/// Checks everything that the format demands of an image of these ranges, and gives what is read back.
fn read_back(image: &[u8], ranges: &[Region], disk_sectors: Option<u64>, disk: &Disk) -> Restored {
    let restored = restore_with(image, Place::AsStored, None, Demand::Nothing).unwrap();
    assert_eq!(
        restored.disk.0.len() as u64,
        ranges.iter().map(|range| range.sectors).sum::<u64>()
    );
    for range in ranges {
        assert!(restored.disk.get(*range) == disk.get(*range), "{range:?}");
    }
    assert_eq!(
        restored.summary.sectors,
        disk_sectors.unwrap_or(ranges.last().unwrap().end())
    );
    let mut reader = ndz::Reader::new(image);
    let mut before: Option<(u64, u64, bool)> = None;
    while let Some((chunk, span)) = reader.next_chunk().unwrap() {
        let header = chunk.header();
        assert!(
            header.regions.len()
                <= if header.version == Version::V3 {
                    469
                } else {
                    251
                }
        );
        if let Some((span_end, regions_end, full)) = before {
            assert!(full, "only a full chunk is followed by another");
            let next = header.regions[0].first;
            assert_eq!(
                span_end, next,
                "the chunk accounts for all up to the next data"
            );
            let cut = ranges
                .iter()
                .any(|range| range.first < next && next < range.end());
            assert!(!cut || span_end == regions_end);
        }
        let (regions, relocations) = (header.regions.len() + 1, header.relocations.len() + 1);
        let next_header = if header.version == Version::V3 {
            344 + 8 * regions + 16 * relocations
        } else {
            72 + 16 * regions + 24 * relocations
        };
        let full = header.data_size > DATA_SIZE - 8192 || next_header > 4096;
        before = Some((span.end, header.end(), full));
        // Regions of one chunk are whole ranges, but for those at its ends.
        let inner = header
            .regions
            .get(1..header.regions.len() - 1)
            .unwrap_or_default();
        assert!(inner.iter().all(|region| ranges.contains(region)));
    }
    restored
}

#[test]
fn the_fragmented_image_gets_the_c_programs_region_tables() {
    let image = golden("v3-ext2-frag.ndz");
    let expected = restore(&image).unwrap();
    let ranges = expected.ranges();
    assert_eq!(ranges.len(), 901);
    let written = write(plan(Version::V3, &ranges, Some(12288)), &expected.disk).unwrap();
    assert_eq!(written.len(), image.len());
    for (index, (ours, theirs)) in
        (0..).zip(written.chunks(CHUNK_SIZE).zip(image.chunks(CHUNK_SIZE)))
    {
        let (ours, theirs) = (
            Chunk::parse(index, ours).unwrap(),
            Chunk::parse(index, theirs).unwrap(),
        );
        assert_eq!(ours.header().regions, theirs.header().regions);
        assert_eq!(ours.header().span, theirs.header().span);
    }
    assert!(read_back(&written, &ranges, Some(12288), &expected.disk).disk == expected.disk);
}

#[test]
fn header_areas_are_the_c_programs_but_for_the_compressed_size() {
    for name in [
        "v3-ext4.ndz",
        "v3-ext4-delta.ndz",
        "v3-gpt-disk.ndz",
        "v3-mbr-disk.ndz",
        "v3-ntfs.ndz",
        "v3-lilo-slice.ndz",
        "v3-file-short.ndz",
    ] {
        let image = golden(name);
        let stored = restore_with(&image, Place::AsStored, None, Demand::Nothing).unwrap();
        let theirs = Chunk::parse(0, &image).unwrap();
        let relocations = theirs.header().relocations.clone();
        let known = (name != "v3-file-short.ndz").then_some(stored.summary.sectors);
        let plan = Plan {
            relocations,
            ..plan(Version::V3, &stored.ranges(), known)
        };
        let mut written = write(plan, &stored.disk).unwrap();
        assert_eq!(written.len(), CHUNK_SIZE, "{name}");
        let ours = Chunk::parse(0, &written).unwrap().header().data_size as f64;
        let size = theirs.header().data_size as f64;
        assert!(
            (0.8..1.2).contains(&(ours / size)),
            "{name}: {ours} bytes, the C program needs {size}"
        );
        written[4..8].copy_from_slice(&image[4..8]);
        assert!(written[..4096] == image[..4096], "{name}");
    }
}

#[test]
fn relocations_are_written_so_that_they_can_be_read() {
    let image = golden("v3-lilo-slice.ndz");
    let stored = restore_with(&image, Place::AsStored, None, Demand::Nothing).unwrap();
    let relocations = Chunk::parse(0, &image)
        .unwrap()
        .header()
        .relocations
        .clone();
    let mut shuffled = relocations.clone();
    shuffled.reverse();
    let id = ImageId([7; 16]);
    let plan = Plan {
        relocations: shuffled,
        image_id: Some(id),
        ..plan(Version::V5, &stored.ranges(), Some(40960))
    };
    let written = write(plan, &stored.disk).unwrap();
    let chunk = Chunk::parse(0, &written).unwrap();
    assert_eq!(chunk.header().image_id, Some(id));
    assert_eq!(chunk.header().relocations, relocations);
    let place = Place::Partition(ndz::PartitionPlace {
        first_sector: 8192,
        sectors: 40960,
    });
    let restored = restore_with(&written, place, None, Demand::Nothing).unwrap();
    assert_eq!(
        restored.disk.sha256(40960 * 512),
        "a3923c5b29f1a4f2ef3469ff70c4f3f9ab6185b171629089323af0b6f9f30c88"
    );
}

#[test]
fn data_that_cannot_be_compressed_fit_at_every_level() {
    let disk = noisy(9000, 256);
    for version in [Version::V3, Version::V5] {
        for level in 0..=9 {
            let ranges = [region(3, 5), region(10, 8000), region(8500, 500)];
            let plan = Plan {
                level,
                ..plan(version, &ranges, Some(9000))
            };
            let image = write(plan, &disk).unwrap();
            read_back(&image, &ranges, Some(9000), &disk);
            assert!(image.len() <= 6 * CHUNK_SIZE, "level {level}");
        }
    }
}

#[test]
fn version_5_uses_its_own_capacity() {
    let disk = noisy(2000, 4);
    let ranges: Vec<_> = (0..600).map(|number| region(number * 3, 1)).collect();
    let image = write(plan(Version::V5, &ranges, None), &disk).unwrap();
    let counts: Vec<_> = read_back(&image, &ranges, None, &disk)
        .regions
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(counts, [251, 251, 98]);
    let image = write(plan(Version::V3, &ranges, None), &disk).unwrap();
    let counts: Vec<_> = read_back(&image, &ranges, None, &disk)
        .regions
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(counts, [469, 131]);
}

#[test]
fn relocations_take_the_room_of_regions_and_stay_with_their_sectors() {
    let disk = Disk::default();
    let ranges: Vec<_> = (0..469).map(|number| region(number * 3, 2)).collect();
    let relocations: Vec<_> = (0..469)
        .map(|number| Relocation {
            kind: 3,
            offset: 510,
            sector: number * 3,
            size: 5,
        })
        .collect();
    for version in [Version::V3, Version::V5] {
        let plan = Plan {
            relocations: relocations.clone(),
            ..plan(version, &ranges, None)
        };
        let image = write(plan, &disk).unwrap();
        let restored = read_back(&image, &ranges, None, &disk);
        assert_eq!(restored.relocations, 469);
        // 24 bytes each in version 3, counted from 344; 40 bytes each in version 5, counted from 72.
        let most = if version == Version::V3 { 156 } else { 100 };
        assert_eq!(restored.regions[0].len(), most);
    }
}

#[test]
fn many_relocations_in_one_range_part_it() {
    let disk = Disk::default();
    let relocations: Vec<_> = (0..600)
        .map(|number| Relocation {
            kind: 4,
            offset: 0,
            sector: 1 + number,
            size: 512,
        })
        .collect();
    let plan_it = Plan {
        relocations,
        ..plan(Version::V3, &[region(0, 1000)], None)
    };
    let image = write(plan_it, &disk).unwrap();
    let restored = read_back(&image, &[region(0, 1000)], None, &disk);
    // 344 + 8 + 16 * 234 = 4096.
    assert_eq!(
        restored.regions,
        [[region(0, 235)], [region(235, 234)], [region(469, 531)]]
    );
    let relocations = vec![
        Relocation {
            kind: 3,
            offset: 9,
            sector: 7,
            size: 5
        };
        235
    ];
    let plan = Plan {
        relocations,
        ..plan(Version::V3, &[region(0, 1000)], None)
    };
    assert!(
        matches!(write(plan, &disk), Err(Error::Usage(_))),
        "235 do not fit, and cannot be parted"
    );
}

#[test]
fn what_a_relocation_is_about_is_not_parted_by_a_chunks_end() {
    let disk = noisy(12_000, 256);
    // LILO tables all over the disk: wherever a chunk ends, it would part one.
    let relocations: Vec<_> = (0..12)
        .map(|number| Relocation {
            kind: 5,
            offset: 478,
            sector: number * 1000 + 3,
            size: 2,
        })
        .collect();
    let dense: Vec<_> = (0..200)
        .map(|number| Relocation {
            kind: 5,
            offset: 478,
            sector: 1900 + 2 * number,
            size: 2,
        })
        .collect();
    for relocations in [relocations, dense] {
        let count = relocations.len();
        let plan = Plan {
            relocations,
            ..plan(Version::V3, &[region(0, 12_000)], Some(12_000))
        };
        let image = write(plan, &disk).unwrap();
        assert_eq!(
            read_back(&image, &[region(0, 12_000)], Some(12_000), &disk).relocations,
            count
        );
    }
}

#[test]
fn a_short_last_sector_gives_the_files_length() {
    let disk = noisy(100, 9);
    let relocations = vec![Relocation {
        kind: 6,
        offset: 0,
        sector: 99,
        size: 77,
    }];
    let plan = Plan {
        relocations,
        ..plan(Version::V3, &[region(0, 100)], None)
    };
    let image = write(plan, &disk).unwrap();
    assert_eq!(restore(&image).unwrap().final_length, Some(99 * 512 + 77));
}

#[test]
fn sectors_above_32_bits_need_version_5() {
    let limit = u64::from(u32::MAX);
    let far = [region(7, 3), region(limit - 2, 4)];
    refused(plan(Version::V3, &far, None));
    refused(plan(Version::V3, &far[..1], Some(limit + 1)));
    let disk = noisy(10, 200);
    let image = write(plan(Version::V5, &far, Some(limit + 100)), &disk).unwrap();
    read_back(&image, &far, Some(limit + 100), &disk);
    let near = [region(7, 3), region(limit - 2, 2)];
    let image = write(plan(Version::V3, &near, Some(limit)), &disk).unwrap();
    read_back(&image, &near, Some(limit), &disk);
}

#[test]
fn impossible_plans_are_refused() {
    let good = plan(Version::V3, &[region(0, 4)], Some(10));
    assert!(Writer::new(good.clone()).is_ok());
    for version in [Version::V1, Version::V2, Version::V4] {
        refused(Plan {
            version,
            ..good.clone()
        });
    }
    refused(Plan {
        level: 10,
        ..good.clone()
    });
    refused(Plan {
        image_id: Some(ImageId([1; 16])),
        ..good.clone()
    });
    for ranges in [
        vec![],
        vec![region(0, 0)],
        vec![region(4, 4), region(6, 2)],
        vec![region(4, 4), region(1, 1)],
        vec![region(8, 3)],
    ] {
        refused(Plan {
            ranges,
            ..good.clone()
        });
    }
    for version in [Version::V3, Version::V5] {
        refused(Plan {
            version,
            ranges: vec![region(5, u64::MAX - 2)],
            disk_sectors: None,
            ..good.clone()
        });
        refused(Plan {
            version,
            ranges: vec![region(u64::MAX, 1)],
            disk_sectors: None,
            ..good.clone()
        });
    }
    let relocations = vec![Relocation {
        kind: 3,
        offset: 0,
        sector: 9,
        size: 5,
    }];
    assert!(matches!(
        Writer::new(Plan {
            relocations,
            ..good
        })
        .map(drop),
        Err(Error::Relocation { .. })
    ));
}

#[test]
fn errors_of_disk_and_output_are_reported() {
    let fail = |_: u64, _: &mut [u8]| Err(std::io::Error::other("bad sector"));
    let answer = Writer::new(plan(Version::V3, &[region(5, 4)], None))
        .unwrap()
        .write_to(&mut Vec::new(), fail);
    assert!(matches!(answer, Err(Error::ReadDisk { sector: 5, .. })));
    let mut small = [0; 10];
    let answer = Writer::new(plan(Version::V3, &[region(5, 4)], None))
        .unwrap()
        .write_to(&mut small.as_mut_slice(), |_, _| Ok(()));
    assert!(matches!(answer, Err(Error::Write(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_ranges_are_read_back(
        steps in prop::collection::vec((prop_oneof![Just(0_u64), 1..50_u64], prop_oneof![1..4_u64, 1..700_u64]), 1..60),
        behind in prop::option::of(0_u64..100), level in 0_u32..10, noise in prop_oneof![Just(1_u64), Just(256), 2..256_u64],
        wide: bool,
    ) {
        let mut ranges = Vec::new();
        let mut at = 0;
        for (gap, sectors) in steps {
            ranges.push(region(at + gap, sectors));
            at += gap + sectors;
        }
        let disk = noisy(at, noise);
        let disk_sectors = behind.map(|behind| at + behind);
        let version = if wide { Version::V5 } else { Version::V3 };
        let image = write(Plan { level, ..plan(version, &ranges, disk_sectors) }, &disk).unwrap();
        read_back(&image, &ranges, disk_sectors, &disk);
    }
}
