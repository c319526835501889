//! Images made by the C program are restored to the bytes that the C program restores them to.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use common::{content_key, golden, public_key, restore, restore_over, restore_with};
use ndz::{Demand, PartitionPlace, Place, Version};

struct Golden {
    name: &'static str,
    version: Version,
    chunks: u32,
    regions: usize,
    relocations: usize,
    allocated: u64,
    last_sector: u64,
    full: (u64, &'static str),
    sparse: (u64, &'static str),
}

/// From `testdata/ndz/README.md`.
const GOLDEN: [Golden; 12] = [
    Golden {
        name: "v1-raw.ndz",
        version: Version::V1,
        chunks: 1,
        regions: 1,
        relocations: 0,
        allocated: 400,
        last_sector: 400,
        full: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
        sparse: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
    },
    Golden {
        name: "v3-ext2-frag.ndz",
        version: Version::V3,
        chunks: 2,
        regions: 901,
        relocations: 0,
        allocated: 2966,
        last_sector: 12_288,
        full: (
            6_291_456,
            "9b37a51d7b12f7c16b8b7ba456769ceceb9468a425eb146444cf16f02b1b8df0",
        ),
        sparse: (
            2_440_192,
            "9d4facc39358e23e007db343a746409c77bbbd30c9ff2ca1b4b7429ae1ec072c",
        ),
    },
    Golden {
        name: "v3-ext4-delta.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 3,
        relocations: 0,
        allocated: 1008,
        last_sector: 786_432,
        full: (
            402_653_184,
            "eba3ac11fdf95314c2cabdd5b267fede4071da7d3729fd3af369d1794da817db",
        ),
        sparse: (
            25_751_552,
            "4c9d2af9e0d14552e00058f5ebf940dbbd4df741adcb8da46ac79ff741f351a4",
        ),
    },
    Golden {
        name: "v3-ext4.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 2,
        relocations: 0,
        allocated: 58_192,
        last_sector: 786_432,
        full: (
            402_653_184,
            "487b77b0f4167ea5898aa73deda2f5da1a3c7ce09d91c49ca19ffad57c7893a9",
        ),
        sparse: (
            272_629_760,
            "45c5e993ad7b974cfe45283bc94d2b08c1987dd4c02b1921e5b3d2534a5dbde7",
        ),
    },
    Golden {
        name: "v3-file-short.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 1,
        relocations: 1,
        allocated: 243,
        last_sector: 243,
        full: (
            124_323,
            "1f16cdda55e5dbea63cf63b5fcfabcd74f7035b01056f727cb8357ceed83eae3",
        ),
        sparse: (
            124_323,
            "1f16cdda55e5dbea63cf63b5fcfabcd74f7035b01056f727cb8357ceed83eae3",
        ),
    },
    Golden {
        name: "v3-gpt-disk.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 6,
        relocations: 0,
        allocated: 6602,
        last_sector: 196_608,
        full: (
            100_663_296,
            "a56be4beaff75edb5150644272ad65b918a928d1e5ab28517a90f333651b809a",
        ),
        sparse: (
            100_663_296,
            "a56be4beaff75edb5150644272ad65b918a928d1e5ab28517a90f333651b809a",
        ),
    },
    Golden {
        name: "v3-lilo-slice.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 3,
        relocations: 19,
        allocated: 3218,
        last_sector: 40_960,
        full: (
            20_971_520,
            "bbc7bb80f4de37b65a68ef5d2d551629a7cb47e4e9b02ddec4445c6366251b09",
        ),
        sparse: (
            17_216_512,
            "21b078a25587d386fc23285ba91f827534c7af02a5bbcc2dec63c5ddbb7415b6",
        ),
    },
    Golden {
        name: "v3-mbr-disk.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 4,
        relocations: 0,
        allocated: 6120,
        last_sector: 131_072,
        full: (
            67_108_864,
            "d48c21c4dba246d31c7a0b61a6b62cf5f28aba2b026dff4bec5936f1f710bd24",
        ),
        sparse: (
            43_024_384,
            "6dfb222dd1407514dc8cbf6a333af79a8c4bf68f4fc22980632ecaffed6bc5c2",
        ),
    },
    Golden {
        name: "v3-ntfs.ndz",
        version: Version::V3,
        chunks: 1,
        regions: 4,
        relocations: 0,
        allocated: 5432,
        last_sector: 40_960,
        full: (
            20_971_520,
            "c108401b3e2f8d64023558f30a555ef6d815d4c66d065fe7fafdc427f485e861",
        ),
        sparse: (
            20_971_520,
            "c108401b3e2f8d64023558f30a555ef6d815d4c66d065fe7fafdc427f485e861",
        ),
    },
    Golden {
        name: "v4-csum-unsigned.ndz",
        version: Version::V4,
        chunks: 1,
        regions: 1,
        relocations: 0,
        allocated: 400,
        last_sector: 400,
        full: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
        sparse: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
    },
    Golden {
        name: "v4-enc-signed.ndz",
        version: Version::V4,
        chunks: 2,
        regions: 2,
        relocations: 0,
        allocated: 5588,
        last_sector: 16_384,
        full: (
            8_388_608,
            "84d58fcae59f98ba90fd287034d815c2c122dac434aa5e044968af7a1b44be7b",
        ),
        sparse: (
            2_861_056,
            "bde4d9a66aceb1e2b16f55e4c8b8f4dbc83090b5245bdbc3bb1ccbe4546f7cb2",
        ),
    },
    Golden {
        name: "v4-signed.ndz",
        version: Version::V4,
        chunks: 1,
        regions: 1,
        relocations: 0,
        allocated: 400,
        last_sector: 400,
        full: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
        sparse: (
            204_800,
            "3667a661f74e9df0482d7d78e64ae306b0dccc9cff0ea8e1d7f65d62b7d4e729",
        ),
    },
];

fn check(golden_file: &Golden, image: &[u8], version: Version) {
    let name = golden_file.name;
    let key = (name == "v4-enc-signed.ndz").then(content_key);
    let restored = restore_with(image, Place::WholeDisk, key.as_ref(), Demand::Nothing).unwrap();
    assert_eq!(restored.summary.version, version, "{name}");
    assert_eq!(restored.summary.chunks, golden_file.chunks, "{name}");
    assert_eq!(restored.summary.sectors, golden_file.last_sector, "{name}");
    assert!(!restored.summary.maybe_cut, "{name}");
    assert_eq!(
        restored.regions.iter().map(Vec::len).sum::<usize>(),
        golden_file.regions,
        "{name}"
    );
    assert_eq!(restored.relocations, golden_file.relocations, "{name}");
    assert_eq!(
        restored.disk.0.len() as u64,
        golden_file.allocated,
        "{name}"
    );
    assert_eq!(restored.full_length(), golden_file.full.0, "{name}");
    assert_eq!(restored.sparse_length(), golden_file.sparse.0, "{name}");
    assert_eq!(
        restored.disk.sha256(golden_file.full.0),
        golden_file.full.1,
        "{name}"
    );
    assert_eq!(
        restored.disk.sha256(golden_file.sparse.0),
        golden_file.sparse.1,
        "{name}"
    );
}

#[test]
fn every_image_gives_the_bytes_that_the_c_program_gives() {
    for golden_file in &GOLDEN {
        check(golden_file, &golden(golden_file.name), golden_file.version);
    }
}

#[test]
fn version_2_is_read_as_version_3() {
    for golden_file in GOLDEN
        .iter()
        .filter(|file| file.version == Version::V3 && file.name != "v3-lilo-slice.ndz")
    {
        let mut image = golden(golden_file.name);
        for chunk in image.chunks_mut(ndz::CHUNK_SIZE) {
            assert_eq!(chunk[0], 0x6B);
            chunk[0] = 0x6A;
        }
        check(golden_file, &image, Version::V2);
    }
}

#[test]
fn lilo_is_relocated_to_where_the_partition_is() {
    let image = golden("v3-lilo-slice.ndz");
    for (start, sha256) in [
        (
            8192,
            "a3923c5b29f1a4f2ef3469ff70c4f3f9ab6185b171629089323af0b6f9f30c88",
        ),
        (
            4096,
            "d4a21a146d5f4685f8c4d2edf780e039362eccb51aacb2c947a28073498cba05",
        ),
        (
            63,
            "ec71889588f6b8ddcc21576bc1c4baa56aa36504c0ba7c7390ce66ffa27c5b99",
        ),
    ] {
        let place = Place::Partition(PartitionPlace {
            first_sector: start,
            sectors: 40960,
        });
        let restored = restore_with(&image, place, None, Demand::Nothing).unwrap();
        assert_eq!(
            restored.disk.sha256(40960 * 512),
            sha256,
            "partition at {start}"
        );
    }
}

#[test]
fn data_can_be_had_as_they_are_stored() {
    let image = golden("v3-lilo-slice.ndz");
    let stored = restore_with(&image, Place::AsStored, None, Demand::Nothing).unwrap();
    let zero = Place::Partition(PartitionPlace {
        first_sector: 0,
        sectors: 40960,
    });
    let at_zero = restore_with(&image, zero, None, Demand::Nothing).unwrap();
    let changed = stored
        .disk
        .0
        .iter()
        .filter(|(sector, data)| at_zero.disk.0[sector] != **data)
        .count();
    assert!(
        changed <= 1,
        "at sector 0 only the descriptor table's checksum may differ: {changed} sectors do"
    );
}

#[test]
fn a_delta_restored_over_its_base_gives_the_new_state() {
    let base = restore(&golden("v3-ext4.ndz")).unwrap();
    let delta = golden("v3-ext4-delta.ndz");
    let both = restore_over(base.disk, &delta, Place::WholeDisk, None, Demand::Nothing).unwrap();
    assert_eq!(
        both.disk.sha256(402_653_184),
        "0bdff608736ff47c82f9cfde59444f6ae31165964a0d082b09e57e0f127bc111"
    );
}

#[test]
fn signed_and_encrypted_is_verified_and_decrypted() {
    let key = content_key();
    let public = public_key("v4-enc-signed.ndz");
    let image = golden("v4-enc-signed.ndz");
    let restored = restore_with(
        &image,
        Place::WholeDisk,
        Some(&key),
        Demand::Signature(&public),
    )
    .unwrap();
    assert_eq!(restored.integrity, [ndz::Integrity::Signature; 2]);
    assert_eq!(
        restored.disk.sha256(8_388_608),
        "84d58fcae59f98ba90fd287034d815c2c122dac434aa5e044968af7a1b44be7b"
    );
}

#[test]
fn chunks_of_the_fragmented_image_are_cut_where_the_region_list_is_full() {
    let image = golden("v3-ext2-frag.ndz");
    let mut reader = ndz::Reader::new(image.as_slice());
    let mut found = Vec::new();
    while let Some((chunk, span)) = reader.next_chunk().unwrap() {
        found.push((chunk.header().regions.len(), span.first, span.end));
    }
    assert_eq!(found, [(469, 0, 3012), (432, 3012, 12288)]);
}
