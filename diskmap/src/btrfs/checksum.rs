//! The checksums of Btrfs metadata: the first 32 bytes of a superblock or node, over the rest.
//!
//! Source: Linux `fs/btrfs/fs.c` (`btrfs_csum`), Documentation/ch-checksumming of btrfs-progs.

use blake2::Blake2b;
use blake2::digest::consts::U32 as Bytes32;
use crc::{CRC_32_ISCSI, Crc, Table};
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// Bytes of the field; short checksums fill its start.
const FIELD_LEN: usize = 32;

/// `csum_type` of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    /// Of 256 bits.
    Blake2b,
}

impl Checksum {
    pub(super) fn of_type(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::Crc32c),
            1 => Some(Self::Xxhash64),
            2 => Some(Self::Sha256),
            3 => Some(Self::Blake2b),
            _ => None,
        }
    }

    /// As `btrfs inspect-internal dump-super` prints it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Xxhash64 => "xxhash64",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2",
        }
    }

    /// Whether a superblock or node matches the checksum it begins with.
    pub(super) fn matches(self, block: &[u8]) -> bool {
        let Some((field, covered)) = block.split_at_checked(FIELD_LEN) else {
            return false;
        };
        match self {
            Self::Crc32c => field.starts_with(&CRC32C.checksum(covered).to_le_bytes()),
            Self::Xxhash64 => field.starts_with(&XxHash64::oneshot(0, covered).to_le_bytes()),
            Self::Sha256 => field == Sha256::digest(covered).as_slice(),
            Self::Blake2b => field == Blake2b::<Bytes32>::digest(covered).as_slice(),
        }
    }
}
