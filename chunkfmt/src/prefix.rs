//! What the three signed structures have in common (docs/FORMAT.md, section 2).
//!
//! Each begins with the same 56 bytes and ends with a 512-byte signature area. The magic bytes that differ keep a
//! signature over one of them from being taken for a signature over another.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Cipher, Codec, Error, KeyId, Part, SignatureAlgorithm, VERSION};

/// Bytes at the end of a signed structure that hold the signature; an RSA-4096 signature would just fit.
pub(crate) const SIGNATURE_AREA: usize = 512;

/// The first 56 bytes of image header, chunk header and manifest head.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Prefix {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    pub(crate) signature: u8,
    pub(crate) codec: u8,
    pub(crate) cipher: u8,
    pub(crate) zero: [u8; 3],
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: U64,
    pub(crate) signer: [u8; 16],
}

/// What an image is made with and whose it is: the same in its header, chunks and manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) signer: KeyId,
    pub(crate) signature: SignatureAlgorithm,
    pub(crate) codec: Codec,
    pub(crate) cipher: Cipher,
}

impl Prefix {
    pub(crate) fn new(magic: [u8; 8], identity: &Identity) -> Self {
        Self {
            magic,
            version: VERSION.into(),
            signature: identity.signature.number(),
            codec: identity.codec.number(),
            cipher: identity.cipher.number(),
            zero: [0; 3],
            uuid: identity.uuid,
            epoch: identity.epoch.into(),
            signer: identity.signer.0,
        }
    }

    /// Checks version, padding and algorithm numbers. The magic is the caller's to check.
    pub(crate) fn identity(&self, part: Part) -> Result<Identity, Error> {
        if self.version.get() != VERSION {
            return Err(Error::Version {
                part,
                found: self.version.get(),
            });
        }
        expect_zero(&self.zero, part)?;
        let signature = SignatureAlgorithm::from_number(self.signature, part)?;
        if signature == SignatureAlgorithm::None && self.signer != [0; 16] {
            return Err(Error::Field {
                part,
                field: "signer",
            });
        }
        Ok(Identity {
            uuid: self.uuid,
            epoch: self.epoch.get(),
            signer: KeyId(self.signer),
            signature,
            codec: Codec::from_number(self.codec, part)?,
            cipher: Cipher::from_number(self.cipher, part)?,
        })
    }
}

impl Identity {
    /// Checks that `other`, found in `part`, is this image's. The codec is left to the caller: a chunk may be stored.
    pub(crate) fn expect(&self, other: &Self, part: Part) -> Result<(), Error> {
        let field = if self.uuid != other.uuid {
            "UUID"
        } else if self.epoch != other.epoch {
            "epoch"
        } else if (self.signer, self.signature) != (other.signer, other.signature) {
            "signer"
        } else if self.cipher != other.cipher {
            "cipher"
        } else {
            return Ok(());
        };
        Err(Error::Foreign { part, field })
    }
}

/// Fails unless all bytes are zero: what is reserved today must be free for tomorrow.
pub(crate) fn expect_zero(bytes: &[u8], part: Part) -> Result<(), Error> {
    match bytes.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err(Error::Field {
            part,
            field: "reserved space",
        }),
    }
}

/// `bytes` rounded up to whole blocks, in blocks.
pub(crate) fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(crate::BLOCK_SIZE as u64)
}
