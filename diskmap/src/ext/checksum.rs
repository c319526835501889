//! The checksums of ext4 metadata: CRC-16 over descriptors (gdt_csum) or CRC-32C over
//! superblock, descriptors and bitmaps (metadata_csum).
//!
//! Source: Linux Documentation/filesystems/ext4/checksums.rst. ext4 leaves out the final
//! inversion of CRC-32C and starts from the checksum of the filesystem's UUID.

use crc::{Algorithm, CRC_16_MODBUS, CRC_32_ISCSI, Crc, Table};

/// Reversed 0x8005 with initial value !0, which the kernel calls `crc16(~0, ...)`.
static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC32C_RAW);
const CRC32C_RAW: Algorithm<u32> = Algorithm {
    xorout: 0,
    ..CRC_32_ISCSI
};

/// CRC-32C of the concatenated `parts`, continued from `seed`.
pub(super) fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    // The crate wants the initial value in the order of the unreflected polynomial.
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

pub(super) fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// Offset of `bg_checksum`, the two bytes of a descriptor it does not cover.
const DESCRIPTOR_CHECKSUM: usize = 0x1e;

/// How the metadata of a filesystem is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    None,
    /// gdt_csum: descriptors only.
    Crc16 {
        uuid: [u8; 16],
    },
    /// metadata_csum.
    Crc32c {
        seed: u32,
    },
}

impl Protection {
    /// Whether the `BLOCK_UNINIT` flag of a descriptor counts: without a checksum the kernel
    /// ignores it.
    pub(super) fn honours_uninit(self) -> bool {
        self != Self::None
    }

    /// Whether a descriptor matches the checksum it carries.
    pub(super) fn descriptor_matches(self, group: u32, bytes: &[u8], stored: u16) -> bool {
        let head = bytes.get(..DESCRIPTOR_CHECKSUM).unwrap_or_default();
        let tail = bytes.get(DESCRIPTOR_CHECKSUM + 2..).unwrap_or_default();
        let group = group.to_le_bytes();
        match self {
            Self::None => true,
            Self::Crc16 { uuid } => crc16(&[&uuid, &group, head, tail]) == stored,
            Self::Crc32c { seed } => {
                let [low @ .., _, _] = crc32c(seed, &[&group, head, &[0, 0], tail]).to_le_bytes();
                u16::from_le_bytes(low) == stored
            }
        }
    }

    /// Whether a bitmap (the bytes of the group's clusters) matches; `wide` descriptors store
    /// all 32 bits, the short ones the lower 16.
    pub(super) fn bitmap_matches(self, bitmap: &[u8], stored: u32, wide: bool) -> bool {
        let Self::Crc32c { seed } = self else {
            return true;
        };
        let mask = if wide { u32::MAX } else { 0xffff };
        crc32c(seed, &[bitmap]) & mask == stored & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_catalogue() {
        // https://reveng.sourceforge.io/crc-catalogue: CRC-32/ISCSI and CRC-16/MODBUS.
        assert_eq!(!crc32c(!0, &[b"123456789"]), 0xe306_9283);
        assert_eq!(crc16(&[b"123456789"]), 0x4b37);
    }

    #[test]
    fn a_seed_continues_a_checksum() {
        let whole = crc32c(!0, &[b"123456789"]);
        assert_eq!(crc32c(crc32c(!0, &[b"1234"]), &[b"56789"]), whole);
        assert_eq!(crc32c(!0, &[b"12", b"", b"3456789"]), whole);
    }
}
