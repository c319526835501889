//! The manifest: what an image consists of, signed once (docs/FORMAT.md, section 9).
//!
//! Its signed head is one block that also travels in every announcement: whoever has it and the owner's key knows the
//! root of the *manifest object* (image header, then manifest body), which names the root of every chunk.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cipher::ImageKeys;
use crate::parity::PARITY_BLOCKS_MAX;
use crate::payload::{self, LAYOUT_HEADER};
use crate::prefix::{Identity, Prefix, SIGNATURE_AREA, blocks_of, expect_zero};
use crate::signature::{sign_block, verify_block};
use crate::tree::Cv;
use crate::{
    BLOCK_SIZE, CHUNK_BLOCKS_MAX, ChunkFormat, Codec, Error, HEADER_SIZE, ImageHeader, KeyId,
    Layout, NDZ_CHUNK_BLOCKS, Part, SigningKey, Trust,
};

const MAGIC: [u8; 8] = *b"FRZMANIF";
const PART: Part = Part::Manifest;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    prefix: Prefix,
    chunks: U32,
    object_blocks: U32,
    body_length: U64,
    chunk_blocks: U64,
    object_root: Cv,
    plain_bytes: U64,
    reserved: [u8; 392],
    signature: [u8; SIGNATURE_AREA],
}

const _: () = assert!(size_of::<RawHead>() == BLOCK_SIZE);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    blocks: U32,
    parity_blocks: U32,
    root: Cv,
    parity_root: Cv,
}

const ENTRY: u64 = size_of::<RawEntry>() as u64;

/// Fewest bytes that the private part has for a chunk: plain hash, layout without regions.
const SECRET_MIN: u64 = (size_of::<PlainHash>() + LAYOUT_HEADER) as u64;

/// Keyed hash of a chunk's layout and disk data.
pub type PlainHash = [u8; 32];

/// What everybody may know of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Blocks of the chunk, its header block included; 0 if a delta leaves it out.
    pub blocks: u32,
    /// BLAKE3 root over these blocks.
    pub root: Cv,
    /// Parity blocks that the parity root is about; 0 if there is none.
    pub parity_blocks: u32,
    /// BLAKE3 root over the parity blocks.
    pub parity_root: Cv,
}

impl ChunkEntry {
    /// Whether the chunk is in this image, rather than in the one that this is a delta to.
    pub fn is_present(&self) -> bool {
        self.blocks > 0
    }

    fn is_valid(&self, chunk_format: ChunkFormat, delta: bool) -> bool {
        let parity = self.parity_blocks <= PARITY_BLOCKS_MAX
            && (self.parity_blocks > 0 || self.parity_root == [0; 32]);
        let blocks = match (self.blocks, chunk_format) {
            (0, _) => delta && *self == Self::default(),
            (_, ChunkFormat::Frz) => (2..=CHUNK_BLOCKS_MAX).contains(&self.blocks),
            (_, ChunkFormat::Ndz) => self.blocks == NDZ_CHUNK_BLOCKS,
        };
        parity && blocks
    }
}

/// What tells about the content of a chunk; sealed with the content key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSecret {
    /// Keyed hash of layout and disk data.
    pub plain_hash: PlainHash,
    /// The sectors that the chunk answers for, and those that it holds.
    pub layout: Layout,
}

/// A chunk's lines of the manifest.
pub(crate) type Line<'a> = (ChunkEntry, &'a ChunkSecret);

/// The signed first block of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    identity: Identity,
    /// Number of chunks.
    pub chunks: u32,
    /// Blocks of the manifest object: image header and manifest body.
    pub object_blocks: u32,
    /// BLAKE3 root of the manifest object.
    pub object_root: Cv,
    /// Bytes of the manifest body without padding.
    pub body_length: u64,
    /// Blocks of all chunks together.
    pub chunk_blocks: u64,
    /// Bytes of disk data in all chunks together.
    pub plain_bytes: u64,
}

impl ManifestHead {
    /// Whether `block` begins like a manifest, to tell it from a chunk.
    pub fn is_manifest(block: &[u8]) -> bool {
        block.starts_with(&MAGIC)
    }

    /// Reads a manifest head and checks its form, not its signature.
    ///
    /// # Errors
    /// [`Error::Field`], [`Error::Version`], [`Error::Truncated`]
    pub fn parse(block: &[u8]) -> Result<Self, Error> {
        let field = |field| Error::Field { part: PART, field };
        let truncated = |_| Error::Truncated {
            part: PART,
            offset: block.len() as u64,
        };
        let (raw, _) = RawHead::ref_from_prefix(block).map_err(truncated)?;
        if raw.prefix.magic != MAGIC {
            return Err(field("magic"));
        }
        let identity = raw.prefix.identity(PART)?;
        expect_zero(&raw.reserved, PART)?;
        let head = Self {
            chunks: raw.chunks.get(),
            object_blocks: raw.object_blocks.get(),
            object_root: raw.object_root,
            body_length: raw.body_length.get(),
            chunk_blocks: raw.chunk_blocks.get(),
            plain_bytes: raw.plain_bytes.get(),
            identity,
        };
        let least = u64::from(head.chunks) * (ENTRY + SECRET_MIN);
        if head.body_length < least {
            return Err(field("body length"));
        }
        if u64::from(head.object_blocks)
            != blocks_of(HEADER_SIZE as u64) + blocks_of(head.body_length)
        {
            return Err(field("object blocks"));
        }
        Ok(head)
    }

    /// Checks the owner's signature over the head's `block`.
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::UntrustedSigner`], [`Error::BadSignature`]
    pub fn verify(&self, block: &[u8], trust: &Trust) -> Result<(), Error> {
        let key = trust.choose(self.identity.signature, self.identity.signer)?;
        verify_block(
            key.as_ref(),
            self.identity.signature,
            block.get(..BLOCK_SIZE).unwrap_or(block),
            PART,
        )
    }

    /// Checks that head and header are of the same image.
    ///
    /// # Errors
    /// [`Error::Foreign`]
    pub fn belongs_to(&self, header: &ImageHeader) -> Result<(), Error> {
        header.identity.expect(&self.identity, PART)?;
        match header.codec() == self.identity.codec {
            true => Ok(()),
            false => Err(Error::Foreign {
                part: PART,
                field: "codec",
            }),
        }
    }

    /// The image's UUID.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_bytes(self.identity.uuid)
    }

    /// The image's epoch.
    pub fn epoch(&self) -> u64 {
        self.identity.epoch
    }

    /// Who signed.
    pub fn signer(&self) -> KeyId {
        self.identity.signer
    }

    /// The image's codec.
    pub fn codec(&self) -> Codec {
        self.identity.codec
    }

    /// Bytes of the manifest body with its padding.
    pub fn padded_body_length(&self) -> u64 {
        blocks_of(self.body_length).saturating_mul(BLOCK_SIZE as u64)
    }

    /// Bytes of the whole image file: header, chunks, manifest, footer.
    pub fn image_bytes(&self) -> u64 {
        let blocks = self
            .chunk_blocks
            .saturating_add(u64::from(self.object_blocks))
            .saturating_add(2);
        blocks.saturating_mul(BLOCK_SIZE as u64)
    }

    /// This head over an object that begins with another header of the same image; signed.
    ///
    /// # Errors
    /// [`Error::Foreign`] if the header is another image's, [`Error::Signing`]
    pub fn with_header(
        &self,
        header: &ImageHeader,
        object: &[u8],
        signer: Option<&SigningKey>,
    ) -> Result<Vec<u8>, Error> {
        self.belongs_to(header)?;
        let head = Self {
            object_root: *blake3::hash(object).as_bytes(),
            ..self.clone()
        };
        head.to_block(signer)
    }

    fn to_block(&self, signer: Option<&SigningKey>) -> Result<Vec<u8>, Error> {
        let raw = RawHead {
            prefix: Prefix::new(MAGIC, &self.identity),
            chunks: self.chunks.into(),
            object_blocks: self.object_blocks.into(),
            body_length: self.body_length.into(),
            chunk_blocks: self.chunk_blocks.into(),
            object_root: self.object_root,
            plain_bytes: self.plain_bytes.into(),
            reserved: [0; 392],
            signature: [0; SIGNATURE_AREA],
        };
        let mut block = raw.as_bytes().to_vec();
        sign_block(signer, &mut block)?;
        Ok(block)
    }
}

/// A manifest whose object has the root that its head names.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its signed first block.
    pub head: ManifestHead,
    /// The chunks, in order.
    pub entries: Vec<ChunkEntry>,
    /// The digest by which a delta names this manifest: BLAKE3 over the body with its padding.
    pub digest: Cv,
    /// The private part, sealed or not, as it stands in the body.
    sealed: Vec<u8>,
}

impl Manifest {
    /// Reads the manifest object: the image header's bytes, then the manifest body with its padding.
    ///
    /// Returns the header that the object begins with; its signature is not checked here.
    ///
    /// # Errors
    /// [`Error::Altered`] if the object does not have the head's root; [`Error::Field`], [`Error::Foreign`]
    pub fn parse(head: ManifestHead, object: &[u8]) -> Result<(ImageHeader, Self), Error> {
        let field = |field| Error::Field { part: PART, field };
        if *blake3::hash(object).as_bytes() != head.object_root {
            return Err(Error::Altered { part: PART });
        }
        let (header, body) = object
            .split_at_checked(HEADER_SIZE)
            .ok_or_else(|| field("object blocks"))?;
        let header = ImageHeader::parse(header)?;
        head.belongs_to(&header)?;
        if body.len() as u64 != head.padded_body_length() {
            return Err(field("object blocks"));
        }
        let count = usize::try_from(head.chunks).map_err(|_| field("chunk count"))?;
        let (table, rest) = <[RawEntry]>::ref_from_prefix_with_elems(body, count)
            .map_err(|_| field("chunk count"))?;
        let sealed_length = usize::try_from(head.body_length)
            .ok()
            .and_then(|length| length.checked_sub(body.len() - rest.len()))
            .ok_or_else(|| field("body length"))?;
        let (sealed, padding) = rest
            .split_at_checked(sealed_length)
            .ok_or_else(|| field("body length"))?;
        expect_zero(padding, PART)?;
        let mut entries = Vec::with_capacity(count);
        let mut chunk_blocks = 0_u64;
        for raw in table {
            let entry = ChunkEntry {
                blocks: raw.blocks.get(),
                root: raw.root,
                parity_blocks: raw.parity_blocks.get(),
                parity_root: raw.parity_root,
            };
            if !entry.is_valid(header.chunk_format, header.base.is_some()) {
                return Err(field("chunk entry"));
            }
            chunk_blocks = chunk_blocks.saturating_add(u64::from(entry.blocks));
            entries.push(entry);
        }
        if chunk_blocks != head.chunk_blocks {
            return Err(field("total of chunk blocks"));
        }
        Ok((
            header,
            Self {
                head,
                entries,
                digest: *blake3::hash(body).as_bytes(),
                sealed: sealed.to_vec(),
            },
        ))
    }

    /// The chunks that are in the image, with their indexes: all but those that a delta leaves out.
    pub fn present(&self) -> impl Iterator<Item = (u32, &ChunkEntry)> {
        (0..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.is_present())
    }

    /// Opens the private part and checks that the chunks' spans tile the disk.
    ///
    /// # Errors
    /// [`Error::Decrypt`], [`Error::Field`]
    pub(crate) fn secrets(
        &self,
        keys: &ImageKeys,
        header: &ImageHeader,
    ) -> Result<Vec<ChunkSecret>, Error> {
        let mut sealed = self.sealed.clone();
        let plain = match keys.manifest_cipher(header.cipher())? {
            Some(cipher) => cipher.open(0, &header.identity.uuid, &mut sealed, PART)?,
            None => &mut sealed,
        };
        let field = |field| Error::Field { part: PART, field };
        let mut rest = &*plain;
        let mut position = 0_u64;
        let mut secrets = Vec::with_capacity(self.entries.len());
        for _ in &self.entries {
            let (plain_hash, tables) = rest
                .split_first_chunk()
                .ok_or_else(|| field("private part"))?;
            let mut layout = Layout::default();
            let (disk_sectors, sector_size) = (header.disk_sectors, header.sector_size);
            (_, rest) = payload::parse(tables, disk_sectors, sector_size, PART, &mut layout)?;
            if layout.span.first != position {
                return Err(field("tiling of the disk"));
            }
            // Who compares a disk with the layout makes room for its data.
            let data = layout.data_sectors().saturating_mul(sector_size.into());
            if data > u64::from(header.chunk_size) {
                return Err(field("data in a layout"));
            }
            position = layout.span.end();
            secrets.push(ChunkSecret {
                plain_hash: *plain_hash,
                layout,
            });
        }
        if !rest.is_empty() {
            return Err(field("private part"));
        }
        match position == header.disk_sectors {
            true => Ok(secrets),
            false => Err(field("tiling of the disk")),
        }
    }

    /// Makes the manifest of an image: its head block, then its padded body, as they follow the last chunk.
    ///
    /// # Errors
    /// [`Error::Limit`] for more than 2^32 - 1 chunks.
    pub(crate) fn build(
        header: &ImageHeader,
        header_bytes: &[u8],
        keys: &ImageKeys,
        signer: Option<&SigningKey>,
        chunks: &[Line<'_>],
        plain_bytes: u64,
    ) -> Result<Vec<u8>, Error> {
        let limit = |detail: &str| Error::Limit {
            field: "chunks",
            detail: detail.into(),
        };
        let mut object = header_bytes.to_vec();
        let mut chunk_blocks = 0_u64;
        for (entry, _) in chunks {
            let raw = RawEntry {
                blocks: entry.blocks.into(),
                parity_blocks: entry.parity_blocks.into(),
                root: entry.root,
                parity_root: entry.parity_root,
            };
            object.extend_from_slice(raw.as_bytes());
            chunk_blocks = chunk_blocks.saturating_add(u64::from(entry.blocks));
        }
        let private = object.len();
        for (_, secret) in chunks {
            object.extend_from_slice(&secret.plain_hash);
            payload::write(&secret.layout, header.sector_size, &mut object)?;
        }
        if let Some(cipher) = keys.manifest_cipher(header.cipher())? {
            cipher.seal(0, &header.identity.uuid, &mut object, private, PART)?;
        }
        let body_length = object.len() - HEADER_SIZE;
        object.resize(object.len().next_multiple_of(BLOCK_SIZE), 0);
        let head = ManifestHead {
            identity: header.identity.clone(),
            chunks: u32::try_from(chunks.len()).map_err(|_| limit("too many"))?,
            object_blocks: u32::try_from(object.len() / BLOCK_SIZE)
                .map_err(|_| limit("too many"))?,
            object_root: *blake3::hash(&object).as_bytes(),
            body_length: body_length as u64,
            chunk_blocks,
            plain_bytes,
        };
        let mut bytes = head.to_block(signer)?;
        bytes.extend_from_slice(&object[HEADER_SIZE..]);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Base, CHUNK_SIZE_MAX, Context, Region, Span};

    /// A delta that leaves out its only chunk, which is said to hold this many sectors.
    fn opened(sectors: u32) -> Result<Vec<ChunkSecret>, Error> {
        let base = Base {
            uuid: Uuid::from_bytes([1; 16]),
            epoch: 1,
            manifest: [0; 32],
        };
        let header = ImageHeader::new("delta".into(), 2, 512, 1 << 40, None, None)?.with_base(base);
        let span = Span {
            first: 0,
            sectors: 1 << 40,
        };
        let layout = Layout::new(span, vec![Region { first: 0, sectors }]);
        let secret = ChunkSecret {
            plain_hash: [0; 32],
            layout,
        };
        let keys = ImageKeys::derive(None, &header.salt, &header.identity.uuid);
        let header_bytes = header.to_bytes(None)?;
        let lines = [(ChunkEntry::default(), &secret)];
        let bytes = Manifest::build(&header, &header_bytes, &keys, None, &lines, 0)?;
        let object = [&header_bytes, &bytes[BLOCK_SIZE..]].concat();
        let (_, manifest) = Manifest::parse(ManifestHead::parse(&bytes)?, &object)?;
        let trust = Trust::new(Vec::new(), true);
        Context::new(&header_bytes, &trust, &[])?.secrets(&manifest)
    }

    #[test]
    fn no_layout_claims_more_data_than_a_chunk_holds() {
        let most = CHUNK_SIZE_MAX / 512;
        assert!(opened(most).is_ok());
        for sectors in [most + 1, u32::MAX] {
            let error = opened(sectors).unwrap_err();
            assert!(matches!(error, Error::Field { part: PART, .. }), "{error}");
        }
    }
}
