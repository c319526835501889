//! The chunk header: one signed block in front of each chunk's body (docs/FORMAT.md, section 7).

use std::ops::Range;

use sha2::{Digest, Sha256};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::payload::LAYOUT_HEADER;
use crate::prefix::{Identity, Prefix, SIGNATURE_AREA, blocks_of, expect_zero};
use crate::signature::{sign_block, verify_block};
use crate::tree::{Cv, root_of_first_group, siblings_of_first_group};
use crate::{
    BLOCK_SIZE, CHUNK_BLOCKS_MAX, CHUNK_SIZE_MAX, Codec, Error, GROUP_BLOCKS, Part,
    SignatureAlgorithm, SigningKey, VerifyingKey,
};

const MAGIC: [u8; 8] = *b"FRZCHUNK";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    prefix: Prefix,
    index: U32,
    body_length: U32,
    plain_length: U32,
    zero: [u8; 12],
    digest: Cv,
    plain_hash: [u8; 32],
    reserved: [u8; 368],
    signature: [u8; SIGNATURE_AREA],
}

const _: () = assert!(size_of::<Raw>() == BLOCK_SIZE);

/// Longest body: all blocks but the header's.
pub(crate) const BODY_MAX: usize = (CHUNK_BLOCKS_MAX as usize - 1) * BLOCK_SIZE;

// A whole chunk of single sectors of 512 bytes fits with any cipher.
const _: () = {
    let plain = CHUNK_SIZE_MAX as usize;
    assert!(LAYOUT_HEADER + plain / 512 * 8 + plain + 40 <= BODY_MAX);
};

/// Bytes of the first group, the only one that the header block is in.
const GROUP: usize = GROUP_BLOCKS as usize * BLOCK_SIZE;

/// Where the digest stands in the header block.
const DIGEST: Range<usize> = 80..112;

/// What a chunk says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    pub(crate) identity: Identity,
    /// Position of the chunk in the image, from 0.
    pub index: u32,
    /// Bytes of the body without padding.
    pub body_length: u32,
    /// Bytes of disk data in the chunk.
    pub plain_length: u32,
    /// Hash of the whole chunk with this field and the signature area left zero.
    pub digest: Cv,
    /// Keyed hash of layout and disk data.
    pub plain_hash: [u8; 32],
}

impl ChunkHeader {
    /// Whether `block` begins like a chunk.
    pub fn is_chunk(block: &[u8]) -> bool {
        block.starts_with(&MAGIC)
    }

    /// Reads a chunk header and checks its form, not its signature. `index` is used in error messages only.
    ///
    /// # Errors
    /// [`Error::Field`], [`Error::Version`], [`Error::Truncated`]
    pub fn parse(block: &[u8], index: u32) -> Result<Self, Error> {
        let part = Part::Chunk(index);
        let field = |field| Error::Field { part, field };
        let truncated = |_| Error::Truncated {
            part,
            offset: block.len() as u64,
        };
        let (raw, _) = Raw::ref_from_prefix(block).map_err(truncated)?;
        if raw.prefix.magic != MAGIC {
            return Err(field("magic"));
        }
        let identity = raw.prefix.identity(part)?;
        expect_zero(&raw.zero, part)?;
        expect_zero(&raw.reserved, part)?;
        let header = Self {
            identity,
            index: raw.index.get(),
            body_length: raw.body_length.get(),
            plain_length: raw.plain_length.get(),
            digest: raw.digest,
            plain_hash: raw.plain_hash,
        };
        if !(LAYOUT_HEADER..=BODY_MAX).contains(&(header.body_length as usize)) {
            return Err(field("body length"));
        }
        if header.plain_length > CHUNK_SIZE_MAX {
            return Err(field("plain length"));
        }
        Ok(header)
    }

    /// How this chunk's data is compressed.
    pub fn codec(&self) -> Codec {
        self.identity.codec
    }

    /// Blocks of the chunk, its header block included.
    pub fn blocks(&self) -> u32 {
        // At most CHUNK_BLOCKS_MAX: `body_length` is bounded.
        u32::try_from(1 + blocks_of(u64::from(self.body_length))).unwrap_or(CHUNK_BLOCKS_MAX)
    }

    pub(crate) fn verify(&self, block: &[u8], key: Option<&VerifyingKey>) -> Result<(), Error> {
        verify_block(key, self.identity.signature, block, Part::Chunk(self.index))
    }

    /// What the body is bound to by its cipher: the header's fields before the hashes.
    pub(crate) fn associated_data(&self) -> [u8; 80] {
        let mut data = [0; 80];
        data.copy_from_slice(&self.raw().as_bytes()[..80]);
        data
    }

    /// Puts the header in front of a body: computes digest, signature and the chunk's root, which is returned.
    pub(crate) fn write(
        &mut self,
        signer: Option<&SigningKey>,
        chunk: &mut [u8],
    ) -> Result<Cv, Error> {
        let siblings = siblings_of_first_group(chunk);
        let group = GROUP.min(chunk.len());
        self.digest = [0; 32];
        chunk[..BLOCK_SIZE].copy_from_slice(self.raw().as_bytes());
        self.digest = match self.identity.signature {
            SignatureAlgorithm::RsaPss => Sha256::digest(&*chunk).into(),
            _ => root_of_first_group(&chunk[..group], &siblings),
        };
        chunk[..BLOCK_SIZE].copy_from_slice(self.raw().as_bytes());
        sign_block(signer, &mut chunk[..BLOCK_SIZE])?;
        Ok(root_of_first_group(&chunk[..group], &siblings))
    }

    /// Checks the digest of a whole chunk; returns its root.
    pub(crate) fn check_digest(&self, chunk: &[u8]) -> Result<Cv, Error> {
        let siblings = siblings_of_first_group(chunk);
        let (group, rest) = chunk.split_at(GROUP.min(chunk.len()));
        let mut blanked = group.to_vec();
        for range in [DIGEST, BLOCK_SIZE - SIGNATURE_AREA..BLOCK_SIZE] {
            blanked.get_mut(range).unwrap_or_default().fill(0);
        }
        let digest = match self.identity.signature {
            SignatureAlgorithm::RsaPss => Sha256::new()
                .chain_update(&blanked)
                .chain_update(rest)
                .finalize()
                .into(),
            _ => root_of_first_group(&blanked, &siblings),
        };
        match digest == self.digest {
            true => Ok(root_of_first_group(group, &siblings)),
            false => Err(Error::Altered {
                part: Part::Chunk(self.index),
            }),
        }
    }

    fn raw(&self) -> Raw {
        Raw {
            prefix: Prefix::new(MAGIC, &self.identity),
            index: self.index.into(),
            body_length: self.body_length.into(),
            plain_length: self.plain_length.into(),
            zero: [0; 12],
            digest: self.digest,
            plain_hash: self.plain_hash,
            reserved: [0; 368],
            signature: [0; SIGNATURE_AREA],
        }
    }
}
