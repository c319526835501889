//! What the image format is attacked with.
//!
//! Each function of [`TARGETS`] takes arbitrary bytes and panics if something is wrong: cargo-fuzz feeds it with what
//! it finds, and an ordinary test with what is in `testdata/fuzz`. They ask for more than that nothing panics: what is
//! accepted must be what the tables of docs/FORMAT.md allow ([`forge`] reads and writes them on its own), and must be
//! the same when it is written again.

#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

pub mod age;
pub mod bombs;
pub mod chunk;
pub mod datagram;
pub mod disk;
pub mod flips;
pub mod forge;
pub mod header;
pub mod image;
pub mod keys;
pub mod layout;
pub mod manifest;
pub mod ndz;
pub mod seeds;

/// A name in `fuzz/fuzz_targets` and `testdata/fuzz`, and what is fed; it says whether the bytes were accepted.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: [Target; 20] = [
    ("header", header::feed),
    ("chunk", chunk::feed),
    ("layout", layout::feed),
    ("manifest", manifest::feed),
    ("image", image::feed),
    ("keys", keys::feed),
    ("age", age::feed),
    ("ndz", ndz::feed),
    ("table", disk::table),
    ("ext", disk::ext),
    ("xfs", disk::xfs),
    ("btrfs", disk::btrfs),
    ("fat", disk::fat),
    ("exfat", disk::exfat),
    ("ntfs", disk::ntfs),
    ("f2fs", disk::f2fs),
    ("ufs", disk::ufs),
    ("lvm", disk::lvm),
    ("swap", disk::swap),
    ("datagram", datagram::feed),
];
