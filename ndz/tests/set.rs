//! Images of which chunks are missing, doubled, exchanged or foreign are refused.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Made, golden, made, restore, restore_with};
use ndz::{CHUNK_SIZE, Demand, Error, Place};

fn at(index: u32, made: Made) -> Made {
    Made { index, ..made }
}

fn join(chunks: &[Made]) -> Vec<u8> {
    chunks.iter().flat_map(Made::bytes).collect()
}

fn fault(chunks: &[Made]) -> Error {
    restore(&join(chunks)).map(drop).unwrap_err()
}

/// Three chunks of an image that belong together.
fn three(version: u8) -> [Made; 3] {
    [
        made(version, (0, 10), &[(0, 5)]),
        at(1, made(version, (10, 20), &[(10, 10)])),
        at(2, made(version, (20, 40), &[(20, 1), (30, 1)])),
    ]
}

#[test]
fn chunks_that_belong_together_are_read() {
    for version in [1, 2, 3, 4, 5, 68] {
        let restored = restore(&join(&three(version))).unwrap();
        assert_eq!(restored.summary.chunks, 3);
        assert_eq!(restored.summary.sectors, if version == 1 { 31 } else { 40 });
        assert!(!restored.summary.maybe_cut);
    }
}

#[test]
fn an_empty_file_is_refused() {
    assert!(matches!(restore(&[]).map(drop), Err(Error::Empty)));
    assert!(matches!(ndz::Set::default().finish(), Err(Error::Empty)));
}

#[test]
fn a_file_cut_inside_a_chunk_is_refused() {
    let image = join(&three(3));
    for length in [
        1,
        4096,
        CHUNK_SIZE - 1,
        CHUNK_SIZE + 1,
        3 * CHUNK_SIZE - 512,
    ] {
        let answer = restore(&image[..length]).map(drop);
        assert!(
            matches!(answer, Err(Error::Truncated { .. })),
            "{length}: {answer:?}"
        );
    }
}

#[test]
fn bytes_behind_the_last_chunk_are_refused() {
    let image = [join(&three(3)), vec![0; 10]].concat();
    assert!(matches!(
        restore(&image).map(drop),
        Err(Error::Truncated {
            chunk: 3,
            bytes: 10
        })
    ));
}

#[test]
fn missing_doubled_and_exchanged_chunks_are_refused() {
    for version in [1, 3, 5] {
        let [first, second, third] = three(version);
        let wrong = [
            vec![first.clone(), third.clone()],
            vec![second.clone(), third.clone()],
            vec![first.clone(), second.clone(), second.clone(), third.clone()],
            vec![first.clone(), third.clone(), second.clone()],
        ];
        for chunks in wrong {
            assert!(matches!(
                fault(&chunks),
                Error::Field {
                    field: "blockindex",
                    ..
                }
            ));
        }
    }
}

#[test]
fn renumbered_chunks_with_gaps_or_overlaps_are_refused() {
    let [first, second, third] = three(3);
    let error = fault(&[first.clone(), at(1, third.clone())]);
    assert!(
        matches!(
            error,
            Error::Gap {
                chunk: 1,
                found: 20,
                expected: 10
            }
        ),
        "{error}"
    );
    let error = fault(&[
        first.clone(),
        second.clone(),
        at(2, second.clone()),
        at(3, third),
    ]);
    assert!(
        matches!(
            error,
            Error::Gap {
                chunk: 2,
                found: 10,
                expected: 20
            }
        ),
        "{error}"
    );
    let error = fault(&[at(0, second)]);
    assert!(
        matches!(
            error,
            Error::Gap {
                chunk: 0,
                found: 10,
                expected: 0
            }
        ),
        "{error}"
    );
}

#[test]
fn version_1_chunks_out_of_order_are_refused() {
    let [first, second, _] = three(1);
    let error = fault(&[at(0, second), at(1, first)]);
    assert!(
        matches!(
            error,
            Error::Gap {
                chunk: 1,
                found: 0,
                expected: 20
            }
        ),
        "{error}"
    );
}

#[test]
fn the_second_chunk_of_a_signed_image_alone_is_refused() {
    let image = golden("v4-enc-signed.ndz");
    let key = common::content_key();
    let answer = restore_with(
        &image[CHUNK_SIZE..],
        Place::WholeDisk,
        Some(&key),
        Demand::Nothing,
    )
    .map(drop);
    assert!(
        matches!(
            answer,
            Err(Error::Field {
                field: "blockindex",
                found: 1,
                ..
            })
        ),
        "{answer:?}"
    );
}

#[test]
fn a_file_cut_between_chunks_is_suspected() {
    for (name, key) in [
        ("v3-ext2-frag.ndz", None),
        ("v4-enc-signed.ndz", Some(common::content_key())),
    ] {
        let image = golden(name);
        let whole = restore_with(&image, Place::WholeDisk, key.as_ref(), Demand::Nothing).unwrap();
        assert!(!whole.summary.maybe_cut, "{name}");
        let cut = restore_with(
            &image[..CHUNK_SIZE],
            Place::WholeDisk,
            key.as_ref(),
            Demand::Nothing,
        )
        .unwrap();
        assert!(cut.summary.maybe_cut, "{name}");
    }
}

#[test]
fn a_version_1_file_with_fewer_or_more_chunks_than_it_says_is_refused() {
    let chunks = three(1).map(|chunk| Made { total: 3, ..chunk });
    assert_eq!(restore(&join(&chunks)).unwrap().summary.chunks, 3);
    assert!(matches!(
        fault(&chunks[..2]),
        Error::Count {
            found: 2,
            expected: 3
        }
    ));
    let more = three(1).map(|chunk| Made { total: 2, ..chunk });
    assert!(matches!(
        fault(&more),
        Error::Field {
            field: "blocktotal",
            ..
        }
    ));
    let mixed = [
        chunks[0].clone(),
        Made {
            total: 4,
            ..chunks[1].clone()
        },
    ];
    assert!(matches!(fault(&mixed), Error::Foreign { chunk: 1, .. }));
    // One chunk that tells the number is enough.
    let [first, second, third] = three(1);
    let told = |total| Made {
        total,
        ..first.clone()
    };
    let told_once = [told(3), second, third];
    assert_eq!(restore(&join(&told_once)).unwrap().summary.chunks, 3);
    let cut = fault(&told_once[..2]);
    assert!(matches!(
        cut,
        Error::Count {
            found: 2,
            expected: 3
        }
    ));
    let [_, second, third] = told_once;
    let error = fault(&[told(2), second, third]);
    assert!(matches!(error, Error::AfterEnd { chunk: 2 }), "{error}");
}

#[test]
fn chunks_of_another_version_are_refused() {
    for (one, other) in [(3, 1), (3, 2), (4, 1), (4, 3), (5, 3)] {
        let [first, ..] = three(one);
        let [_, second, _] = three(other);
        let error = fault(&[first, second]);
        assert!(
            matches!(
                error,
                Error::Foreign {
                    chunk: 1,
                    what: "the version"
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn chunks_with_another_image_id_are_refused() {
    for version in [4, 5] {
        let [first, second, _] = three(version);
        let other = Made {
            image_id: [7; 16],
            ..second
        };
        let error = fault(&[first, other]);
        assert!(
            matches!(
                error,
                Error::Foreign {
                    chunk: 1,
                    what: "the image id"
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn chunks_with_another_cipher_or_checksum_are_refused() {
    let [first, second, _] = three(4);
    for (offset, value, expected) in [(36, 1, "the cipher"), (38, 1, "the kind of checksum")] {
        let mut image = join(&[first.clone(), second.clone()]);
        image[CHUNK_SIZE + offset] = value;
        let mut reader = ndz::Reader::new(image.as_slice());
        reader.next_chunk().unwrap();
        let answer = reader.next_chunk().map(drop);
        assert!(
            matches!(answer, Err(Error::Foreign { chunk: 1, what }) if what == expected),
            "{answer:?}"
        );
    }
}

#[test]
fn a_chunk_of_another_image_behind_the_last_is_refused() {
    let mut image = golden("v3-ntfs.ndz");
    image.extend(golden("v3-ext4-delta.ndz"));
    assert!(restore(&image).is_err());
    let mut image = golden("v4-signed.ndz");
    image.extend(golden("v1-raw.ndz"));
    assert!(restore(&image).is_err());
}

#[test]
fn chunks_behind_a_short_last_sector_are_refused() {
    let [first, second, _] = three(3);
    let first = Made {
        relocations: vec![(6, 4, 0, 100)],
        ..first
    };
    assert!(matches!(
        fault(&[first, second]),
        Error::AfterEnd { chunk: 1 }
    ));
}

/// Gives a few bytes at a time and is interrupted now and then, as a pipe is.
struct Slow<'a>(&'a [u8], u32);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(7) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(65_521);
        std::io::Read::read(&mut self.0, &mut buffer[..length])
    }
}

#[test]
fn a_slow_source_gives_the_same_chunks() {
    let image = join(&three(3));
    let mut reader = ndz::Reader::new(Slow(&image, 0));
    let mut chunks = 0;
    while reader.next_chunk().unwrap().is_some() {
        chunks += 1;
    }
    assert_eq!(chunks, 3);
    assert_eq!(reader.finish().unwrap().sectors, 40);
}
