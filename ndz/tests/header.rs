//! Headers with values that they cannot have are refused, each for its reason; all versions and both layouts of version
//! 5 are read.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Made, golden, made, made_data, restore};
use ndz::{CHUNK_SIZE, Chunk, Error, Region, Span, Version};
use proptest::prelude::*;

const VERSIONS: [u8; 6] = [1, 2, 3, 4, 5, 68];

fn fault(made: &Made) -> Error {
    Chunk::parse(made.index, &made.bytes())
        .map(drop)
        .unwrap_err()
}

/// The chunk is refused for the value of `field`.
#[track_caller]
fn refused_field(made: &Made, field: &str) {
    let error = fault(made);
    assert!(
        matches!(error, Error::Field { field: found, .. } if found == field),
        "version {}: {error}",
        made.version
    );
}

#[track_caller]
fn refused_region(made: &Made, number: usize) {
    let error = fault(made);
    assert!(
        matches!(error, Error::Region { region, .. } if region == number),
        "version {}: {error}",
        made.version
    );
}

#[track_caller]
fn refused_relocation(made: &Made) {
    let error = fault(made);
    assert!(
        matches!(error, Error::Relocation { .. }),
        "version {}: {error}",
        made.version
    );
}

#[test]
fn all_versions_are_read_the_same() {
    let regions = [(2, 3), (10, 1), (11, 4)];
    for version in VERSIONS {
        let mut chunk = made(version, (0, 20), &regions);
        if version > 1 {
            chunk.relocations = vec![(3, 11, 7, 5), (7, 12, 0, 512)];
        }
        let image = chunk.bytes();
        let parsed = Chunk::parse(0, &image).unwrap();
        let header = parsed.header();
        assert_eq!(header.version.number(), version.min(5));
        assert_eq!(
            header.regions,
            regions.map(|(first, sectors)| Region { first, sectors })
        );
        assert_eq!(
            header.span,
            (version > 1).then_some(Span { first: 0, end: 20 })
        );
        assert_eq!(header.relocations.len(), chunk.relocations.len());
        for (found, &(kind, sector, offset, size)) in
            header.relocations.iter().zip(&chunk.relocations)
        {
            assert_eq!(
                (found.kind, found.sector, found.offset, found.size),
                (kind, sector, offset, size)
            );
        }
        let restored = restore(&image).unwrap();
        for (first, sectors) in regions {
            assert_eq!(
                restored.disk.get(Region { first, sectors }),
                made_data(&[(first, sectors)])
            );
        }
        assert_eq!(restored.disk.0.len(), 8);
        assert_eq!(restored.summary.sectors, if version == 1 { 15 } else { 20 });
    }
}

#[test]
fn golden_images_read_the_same_with_a_version_5_header() {
    for name in [
        "v3-ext2-frag.ndz",
        "v3-lilo-slice.ndz",
        "v3-file-short.ndz",
        "v3-gpt-disk.ndz",
    ] {
        let image = golden(name);
        let expected = restore(&image).unwrap();
        for version in [5, 68] {
            // As many regions as version 5 has room for; the fragmented image's chunks have more.
            let mut converted = Vec::new();
            for (index, bytes) in (0..).zip(image.chunks(CHUNK_SIZE)) {
                let chunk = Chunk::parse(index, bytes).unwrap();
                let header = chunk.header();
                if header.regions.len() > 251 {
                    break;
                }
                let span = header.span.unwrap();
                let regions: Vec<_> = header
                    .regions
                    .iter()
                    .map(|region| (region.first, region.sectors))
                    .collect();
                converted.extend(
                    Made {
                        index,
                        relocations: (header.relocations.iter())
                            .map(|entry| (entry.kind, entry.sector, entry.offset, entry.size))
                            .collect(),
                        stream: bytes[4096..4096 + header.data_size].to_vec(),
                        image_id: *b"sixteen bytes id",
                        ..made(version, (span.first, span.end), &regions)
                    }
                    .bytes(),
                );
            }
            if converted.len() == image.len() {
                let restored = restore(&converted).unwrap();
                assert!(restored.disk == expected.disk, "{name} as {version}");
                assert_eq!(restored.full_length(), expected.full_length());
                assert_eq!(restored.summary.version, Version::V5);
            } else {
                assert_eq!(name, "v3-ext2-frag.ndz");
            }
        }
    }
}

#[test]
fn version_5_has_sectors_above_32_bits_and_an_image_id_unless_it_is_zero() {
    let far = 0x12_3456_789A;
    for version in [5, 68] {
        let mut chunk = made(version, (0, far + 9), &[(7, 2), (far, 3)]);
        chunk.relocations = vec![(4, far + 1, 0, 512)];
        for id in [[0; 16], *b"sixteen bytes id"] {
            chunk.image_id = id;
            let image = chunk.bytes();
            let parsed = Chunk::parse(0, &image).unwrap();
            assert_eq!(
                parsed.header().regions[1],
                Region {
                    first: far,
                    sectors: 3
                }
            );
            assert_eq!(
                parsed.header().span,
                Some(Span {
                    first: 0,
                    end: far + 9
                })
            );
            assert_eq!(parsed.header().relocations[0].sector, far + 1);
            assert_eq!(
                parsed.header().image_id.map(|id| id.0),
                Some(id).filter(|id| *id != [0; 16])
            );
        }
    }
}

#[test]
fn damaged_version_5_headers_are_not_taken_for_the_other_layout() {
    for version in [5, 68] {
        refused_region(
            &made(version, (0, 20), &[(2, 3), (4, 1)]),
            if version == 5 { 1 } else { 0 },
        );
        assert!(matches!(
            fault(&made(version, (0, 20), &[(2, 3), (19, 2)])),
            Error::Region { .. }
        ));
    }
}

#[test]
fn a_chunk_of_another_length_is_refused() {
    let bytes = made(3, (0, 9), &[(0, 9)]).bytes();
    for length in [0, 4095, 4096, CHUNK_SIZE - 1] {
        let answer = Chunk::parse(0, &bytes[..length]).map(drop);
        assert!(matches!(answer, Err(Error::Truncated { bytes, .. }) if bytes == length));
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(Chunk::parse(0, &longer).is_err());
}

#[test]
fn other_magics_are_refused_each_with_its_own_message() {
    let refuse = |magic: [u8; 4]| {
        let mut bytes = made(3, (0, 9), &[(0, 9)]).bytes();
        bytes[..4].copy_from_slice(&magic);
        Chunk::parse(0, &bytes).map(drop).unwrap_err()
    };
    assert!(matches!(
        refuse([0x6E, 0x69, 0x69, 0x69]),
        Error::Version6 { chunk: 0 }
    ));
    assert!(matches!(
        refuse([0x69, 0x69, 0x69, 0x6B]),
        Error::BigEndian { chunk: 0 }
    ));
    assert!(matches!(
        refuse([0x69, 0x69, 0x69, 0x6D]),
        Error::BigEndian { chunk: 0 }
    ));
    for other in [
        [0; 4],
        [0x68, 0x69, 0x69, 0x69],
        [0x6F, 0x69, 0x69, 0x69],
        *b"FRZI",
    ] {
        assert!(matches!(refuse(other), Error::Magic { chunk: 0, .. }));
    }
    let mut big_endian = made(1, (0, 9), &[(0, 9)]).bytes();
    for field in big_endian[4..32].as_chunks_mut::<4>().0 {
        field.reverse();
    }
    assert!(matches!(
        Chunk::parse(0, &big_endian).map(drop),
        Err(Error::BigEndian { chunk: 0 })
    ));
}

#[test]
fn a_regionsize_other_than_4096_is_refused() {
    for version in VERSIONS {
        for region_size in [0, 4095, 8192, u32::MAX] {
            refused_field(
                &Made {
                    region_size,
                    ..made(version, (0, 9), &[(0, 9)])
                },
                "regionsize",
            );
        }
    }
}

#[test]
fn a_size_of_zero_or_beyond_the_data_area_is_refused() {
    for version in VERSIONS {
        for size in [0, 1_044_481, 1 << 20, u32::MAX] {
            refused_field(
                &Made {
                    size: Some(size),
                    ..made(version, (0, 9), &[(0, 9)])
                },
                "size",
            );
        }
    }
}

#[test]
fn a_blockindex_other_than_the_position_is_refused() {
    let bytes = Made {
        index: 5,
        ..made(3, (0, 9), &[(0, 9)])
    }
    .bytes();
    assert!(Chunk::parse(5, &bytes).is_ok());
    for position in [0, 4, 6] {
        let answer = Chunk::parse(position, &bytes).map(drop);
        assert!(matches!(
            answer,
            Err(Error::Field {
                field: "blockindex",
                found: 5,
                ..
            })
        ));
    }
}

#[test]
fn a_blocktotal_that_the_position_is_beyond_is_refused() {
    refused_field(
        &Made {
            index: 3,
            total: 3,
            ..made(1, (0, 9), &[(0, 9)])
        },
        "blocktotal",
    );
    refused_field(
        &Made {
            total: 1 << 31,
            ..made(1, (0, 9), &[(0, 9)])
        },
        "blocktotal",
    );
}

#[test]
fn a_regioncount_of_zero_or_beyond_the_header_is_refused() {
    for (version, most) in [(1, 509), (2, 507), (3, 507), (4, 469), (5, 251), (68, 251)] {
        for count in [0, most + 1, 1 << 20, 1 << 31, u32::MAX] {
            refused_field(
                &Made {
                    region_count: Some(count),
                    ..made(version, (0, 9), &[(0, 9)])
                },
                "regioncount",
            );
        }
        let regions: Vec<_> = (0..u64::from(most)).map(|number| (number * 2, 1)).collect();
        let full = made(version, (0, 2000), &regions);
        assert_eq!(
            Chunk::parse(0, &full.bytes())
                .unwrap()
                .header()
                .regions
                .len(),
            most as usize
        );
    }
}

#[test]
fn a_reloccount_beyond_the_header_is_refused() {
    for (version, most) in [(2, 253), (3, 253), (4, 234), (5, 167), (68, 167)] {
        for count in [most + 1, 1 << 28, 1 << 31, u32::MAX] {
            let chunk = Made {
                relocation_count: Some(count),
                ..made(version, (0, 9), &[(0, 9)])
            };
            let error = fault(&chunk);
            assert!(
                matches!(
                    error,
                    Error::Field {
                        field: "reloccount",
                        ..
                    }
                ),
                "version {version}: {error}"
            );
        }
        let relocations = vec![(3, 4, 0, 5); most as usize];
        let full = Made {
            relocations,
            ..made(version, (0, 9), &[(0, 9)])
        };
        assert_eq!(
            Chunk::parse(0, &full.bytes())
                .unwrap()
                .header()
                .relocations
                .len(),
            most as usize
        );
    }
}

#[test]
fn empty_regions_are_refused() {
    for version in [1, 2, 3, 4, 5] {
        refused_region(&made(version, (0, 30), &[(0, 3), (5, 0)]), 1);
    }
}

#[test]
fn overlapping_and_descending_regions_are_refused() {
    for version in [1, 2, 3, 4, 5] {
        refused_region(&made(version, (0, 30), &[(0, 3), (2, 5)]), 1);
        refused_region(&made(version, (0, 30), &[(10, 3), (2, 5)]), 1);
        refused_region(&made(version, (0, 30), &[(10, 3), (20, 2), (20, 2)]), 2);
    }
}

#[test]
fn regions_outside_of_the_span_are_refused() {
    for version in [2, 3, 4, 5] {
        refused_region(&made(version, (5, 30), &[(4, 2)]), 0);
        refused_region(&made(version, (5, 30), &[(5, 2), (28, 3)]), 1);
        refused_region(&made(version, (30, 5), &[(10, 2)]), 0);
    }
}

#[test]
fn regions_beyond_the_last_byte_are_refused() {
    let stream = common::zlib(&[0; 512]);
    for first in [u64::MAX, u64::MAX / 512, u64::MAX / 512 - 1] {
        let chunk = Made {
            stream: stream.clone(),
            ..made(5, (0, u64::MAX), &[])
        };
        refused_region(
            &Made {
                regions: vec![(first, 2)],
                ..chunk
            },
            0,
        );
    }
    let chunk = Made {
        stream,
        regions: vec![(0, 1)],
        ..made(5, (0, u64::MAX), &[])
    };
    assert!(matches!(fault(&chunk), Error::Region { .. }));
}

#[test]
fn more_sectors_than_a_chunk_can_inflate_to_are_refused() {
    for (version, number) in [(1, 0), (3, 0), (5, 0)] {
        let chunk = Made {
            stream: common::zlib(&[0; 512]),
            ..made(version, (0, 0xFFFF_FFFF), &[])
        };
        refused_region(
            &Made {
                regions: vec![(0, 2_200_000)],
                ..chunk.clone()
            },
            number,
        );
        refused_region(
            &Made {
                regions: vec![(0, 1_100_000), (1_100_000, 1_100_000)],
                ..chunk
            },
            1,
        );
    }
}

#[test]
fn relocations_outside_of_the_regions_are_refused() {
    for version in [2, 3, 4, 5] {
        let chunk = made(version, (0, 30), &[(2, 3), (10, 4)]);
        for relocation in [
            (4, 5, 0, 512),
            (3, 4, 510, 5),
            (5, 10, 2, 2),
            (3, 29, 0, 5),
            (4, 3, 1, 512),
            (3, 3, 600, 5),
        ] {
            refused_relocation(&Made {
                relocations: vec![relocation],
                ..chunk.clone()
            });
        }
    }
}

#[test]
fn a_short_sector_that_is_not_the_last_is_refused() {
    for (sector, size) in [(3, 100), (12, 100), (14, 100), (13, 0), (13, 512)] {
        let relocations = vec![(6, sector, 0, size)];
        refused_relocation(&Made {
            relocations,
            ..made(3, (0, 30), &[(2, 3), (10, 4)])
        });
    }
    let relocations = vec![(6, 13, 0, 100)];
    let good = Made {
        relocations,
        ..made(3, (0, 30), &[(2, 3), (10, 4)])
    };
    assert_eq!(
        restore(&good.bytes()).unwrap().final_length,
        Some(13 * 512 + 100)
    );
}

#[test]
fn unknown_relocations_are_named_and_left_alone() {
    let relocations = vec![(100, 3, 0, 4), (7, 1, 0, 512), (101, 999, 9, 9)];
    let bytes = Made {
        relocations,
        ..made(3, (0, 30), &[(2, 3)])
    }
    .bytes();
    let chunk = Chunk::parse(0, &bytes).unwrap();
    let checked = chunk
        .data(None)
        .unwrap()
        .check(ndz::Place::WholeDisk)
        .unwrap();
    assert_eq!(checked.unknown_relocations(), [100, 101]);
    assert_eq!(
        restore(&bytes).unwrap().disk.get(Region {
            first: 2,
            sectors: 3
        }),
        made_data(&[(2, 3)])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_headers_do_not_make_it_panic(version in 0_u8..7, area in prop::collection::vec(any::<u8>(), 400)) {
        let mut bytes = vec![0; CHUNK_SIZE];
        bytes[..400].copy_from_slice(&area);
        bytes[..4].copy_from_slice(&[0x69 + version, 0x69, 0x69, 0x69]);
        bytes[16..20].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[7] = 0;
        bytes[8..16].fill(0);
        bytes[21..24].fill(0);
        let _ = Chunk::parse(0, &bytes).map(drop);
    }

    #[test]
    fn changed_golden_chunks_do_not_make_it_panic(
        which in 0_usize..4, changes in prop::collection::vec((0_usize..600, any::<u8>()), 1..6),
    ) {
        let mut image = golden(["v3-lilo-slice.ndz", "v1-raw.ndz", "v4-signed.ndz", "v3-file-short.ndz"][which]);
        for (offset, value) in changes {
            // Some of the header, some of the stream.
            image[if offset < 400 { offset } else { offset + 4096 - 400 }] = value;
        }
        let _ = restore(&image).map(drop);
    }
}
