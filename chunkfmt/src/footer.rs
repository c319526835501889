//! The footer: where the manifest is (docs/FORMAT.md, section 10). A hint; the manifest proves itself.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::prefix::expect_zero;
use crate::{BLOCK_SIZE, Error, Part, VERSION};

const MAGIC: [u8; 8] = *b"FRZFOOTR";
const PART: Part = Part::Footer;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U16,
    zero: [u8; 6],
    uuid: [u8; 16],
    manifest_offset: U64,
    manifest_length: U64,
    reserved: [u8; 976],
}

const _: () = assert!(size_of::<Raw>() == BLOCK_SIZE);

/// The last block of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The image's UUID.
    pub uuid: [u8; 16],
    /// Offset of the manifest head from the beginning of the image.
    pub manifest_offset: u64,
    /// Bytes of manifest head and padded body.
    pub manifest_length: u64,
}

impl Footer {
    /// Reads a footer.
    ///
    /// # Errors
    /// [`Error::Field`], [`Error::Version`], [`Error::Truncated`]
    pub fn parse(block: &[u8]) -> Result<Self, Error> {
        let truncated = |_| Error::Truncated {
            part: PART,
            offset: block.len() as u64,
        };
        let raw = Raw::ref_from_bytes(block).map_err(truncated)?;
        if raw.magic != MAGIC {
            return Err(Error::Field {
                part: PART,
                field: "magic",
            });
        }
        if raw.version.get() != VERSION {
            return Err(Error::Version {
                part: PART,
                found: raw.version.get(),
            });
        }
        expect_zero(&raw.zero, PART)?;
        expect_zero(&raw.reserved, PART)?;
        Ok(Self {
            uuid: raw.uuid,
            manifest_offset: raw.manifest_offset.get(),
            manifest_length: raw.manifest_length.get(),
        })
    }

    /// The footer's bytes.
    pub fn to_block(&self) -> Vec<u8> {
        let raw = Raw {
            magic: MAGIC,
            version: VERSION.into(),
            zero: [0; 6],
            uuid: self.uuid,
            manifest_offset: self.manifest_offset.into(),
            manifest_length: self.manifest_length.into(),
            reserved: [0; 976],
        };
        raw.as_bytes().to_vec()
    }
}
