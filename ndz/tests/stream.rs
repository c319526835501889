//! Compressed data that are not exactly what the regions hold are refused before a byte is handed on.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{Made, made, made_data, restore, zlib};
use ndz::{Chunk, Error, Place};

fn refused(stream: Vec<u8>, why: &str) {
    let bytes = Made {
        stream,
        ..made(3, (0, 40), &[(0, 20), (30, 10)])
    }
    .bytes();
    let chunk = Chunk::parse(0, &bytes).unwrap();
    let error = chunk
        .data(None)
        .unwrap()
        .check(Place::WholeDisk)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error, Error::Stream { chunk: 0, fault } if fault.contains(why)),
        "{why}: {error}"
    );
}

fn good() -> Vec<u8> {
    zlib(&made_data(&[(0, 20), (30, 10)]))
}

#[test]
fn a_stream_that_gives_too_little_is_refused() {
    refused(zlib(&vec![1; 30 * 512 - 1]), "fewer");
    refused(zlib(&[]), "fewer");
}

#[test]
fn a_stream_that_gives_too_much_is_refused() {
    refused(zlib(&vec![1; 30 * 512 + 1]), "more");
    refused(zlib(&vec![0; 100 << 20]), "more");
}

#[test]
fn a_stream_that_is_cut_short_is_refused() {
    let stream = good();
    for cut in 1..stream.len() {
        let bytes = Made {
            stream: stream[..cut].to_vec(),
            ..made(3, (0, 40), &[(0, 20), (30, 10)])
        }
        .bytes();
        assert!(
            matches!(restore(&bytes).map(drop), Err(Error::Stream { .. })),
            "{cut} bytes"
        );
    }
}

#[test]
fn bytes_between_the_stream_and_its_recorded_end_are_refused() {
    refused([good(), vec![0]].concat(), "before their recorded length");
    refused([good(), good()].concat(), "before their recorded length");
}

#[test]
fn a_wrong_adler_32_is_refused() {
    let mut stream = good();
    *stream.last_mut().unwrap() ^= 1;
    refused(stream, "not a valid");
}

#[test]
fn what_is_no_zlib_stream_is_refused() {
    refused(vec![0; 1000], "not a valid");
    refused(vec![0xFF; 1000], "not a valid");
    // A preset dictionary is asked for.
    refused([vec![0x78, 0x20], vec![0; 100]].concat(), "not a valid");
}

#[test]
fn a_chunk_that_inflates_to_a_gibibyte_is_handed_out_in_pieces() {
    // 400 MiB in two regions: more than is kept in memory.
    let regions = [(3, 409_600), (500_000, 409_600)];
    let stream = {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(9));
        let megabyte = vec![0x5A; 1 << 20];
        for _ in 0..400 {
            encoder.write_all(&megabyte).unwrap();
        }
        encoder.finish().unwrap()
    };
    let template = Made {
        version: 3,
        stream,
        ..made(3, (0, 1_000_000), &[])
    };
    let bytes = Made {
        regions: regions.to_vec(),
        relocations: vec![(3, 500_001, 510, 5)],
        ..template
    }
    .bytes();
    let chunk = Chunk::parse(0, &bytes).unwrap();
    let place = ndz::PartitionPlace {
        first_sector: 1,
        sectors: 1_000_000,
    };
    let checked = chunk
        .data(None)
        .unwrap()
        .check(Place::Partition(place))
        .unwrap();
    let mut next = 3;
    let mut changed = Vec::new();
    let (piece, moved) = (vec![0x5A; 1 << 20], [0x5B, 0x5A, 0x5A, 0x5A, 0x5A]);
    checked
        .pieces(|first, data| {
            if next == 3 + 409_600 {
                next = 500_000;
            }
            assert_eq!((first, data.len() % 512), (next, 0));
            next += data.len() as u64 / 512;
            if data != &piece[..data.len()] {
                changed.push(first);
                assert_eq!(data[512 + 510..512 + 515], moved);
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!((next, changed), (909_600, vec![500_000]));
}

#[test]
fn a_large_bad_chunk_hands_nothing_out() {
    let mut stream = zlib(&vec![0; 20 << 20]);
    *stream.last_mut().unwrap() ^= 1;
    let bytes = Made {
        stream,
        regions: vec![(0, 40960)],
        ..made(3, (0, 40960), &[])
    }
    .bytes();
    let chunk = Chunk::parse(0, &bytes).unwrap();
    assert!(matches!(
        chunk.data(None).unwrap().check(Place::WholeDisk).map(drop),
        Err(Error::Stream { .. })
    ));
}

#[test]
fn errors_of_the_receiver_are_passed_on() {
    let bytes = made(3, (0, 40), &[(0, 20), (30, 10)]).bytes();
    let chunk = Chunk::parse(0, &bytes).unwrap();
    let mut calls = 0;
    let answer = chunk
        .data(None)
        .unwrap()
        .check(Place::WholeDisk)
        .unwrap()
        .pieces(|_, _| {
            calls += 1;
            Err(Error::Usage("disk full"))
        });
    assert!(matches!(answer, Err(Error::Usage("disk full"))));
    assert_eq!(calls, 1);
}
