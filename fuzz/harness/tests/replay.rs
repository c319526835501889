//! Everything in `testdata/fuzz` goes through the harnesses again: seeds, what the fuzzer found worth keeping, and
//! what once was wrong. Needs no cargo-fuzz.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fuzz")
}

fn replay(target: &str) {
    let (_, feed) = fuzz_harness::TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(corpora().join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        // Said before, so that a panic tells of which file.
        println!("{}", file.display());
        let accepted = feed(&fs::read(&file).unwrap());
        // A seed that is refused would lead nowhere.
        assert!(accepted || !file.to_string_lossy().contains("/seed-"));
    }
}

macro_rules! replay {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed_and_can_be_fuzzed() {
            let names: Vec<&str> = fuzz_harness::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
            for name in names {
                let program = format!("../fuzz_targets/{name}.rs");
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(program).is_file());
            }
        }
    };
}

replay!(
    header, chunk, layout, manifest, image, keys, age, ndz, table, ext, xfs, btrfs, fat, exfat,
    ntfs, f2fs, ufs, lvm, swap, datagram
);

/// The seeds in the repository are those that `examples/seeds.rs` writes; wrapped keys are random.
#[test]
fn seeds_are_up_to_date() {
    for (target, name, bytes) in fuzz_harness::seeds::all() {
        let file = corpora().join(target).join(format!("seed-{name}"));
        let stored = fs::read(&file).unwrap_or_default();
        assert!(
            stored == bytes || target == "age",
            "cargo run -p fuzz-harness --example seeds -- testdata/fuzz"
        );
    }
}
