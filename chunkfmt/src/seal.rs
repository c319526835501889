//! Making an image: disk data to chunk bytes, and the manifest at the end (docs/FORMAT.md, sections 7 to 10).

use std::sync::Arc;

use zstd::bulk::Compressor;

use crate::chunk::ChunkHeader;
use crate::cipher::{BodyCipher, ImageKeys, TAG_SIZE};
use crate::manifest::{ChunkEntry, ChunkSecret, Manifest};
use crate::payload::{self, Region, Span};
use crate::{
    BLOCK_SIZE, Codec, ContentKey, Error, Footer, HEADER_SIZE, ImageHeader, Part, SigningKey,
};

/// What all sealers of one image share.
struct Shared {
    header: ImageHeader,
    header_bytes: Vec<u8>,
    keys: ImageKeys,
    cipher: Option<BodyCipher>,
    signer: Option<Arc<SigningKey>>,
}

/// Seals chunks of one image. Clone it for each thread with [`Sealer::for_thread`].
pub struct Sealer {
    shared: Arc<Shared>,
    level: i32,
    compressor: Compressor<'static>,
}

/// A sealed chunk's lines of the manifest, to be handed to [`Sealer::finish`] in the order of the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    entry: ChunkEntry,
    secret: ChunkSecret,
    plain_length: u32,
}

impl Sealed {
    /// Bytes of the chunk, a whole number of blocks.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.entry.blocks) * BLOCK_SIZE as u64
    }

    /// Bytes of disk data in the chunk.
    pub fn plain_bytes(&self) -> u64 {
        u64::from(self.plain_length)
    }
}

fn compressor(level: i32) -> Result<Compressor<'static>, Error> {
    let mut compressor = Compressor::new(level).map_err(|source| Error::Compress {
        part: Part::Header,
        source,
    })?;
    // The chunk carries hashes of its own; the frame's length is signed in the chunk header.
    compressor
        .include_checksum(false)
        .and_then(|()| compressor.include_contentsize(false))
        .map_err(|source| Error::Compress {
            part: Part::Header,
            source,
        })?;
    Ok(compressor)
}

impl Sealer {
    /// Begins an image. `key` and `signer` must be those that the header was made with; `level` is Zstandard's.
    ///
    /// # Errors
    /// [`Error::WrongKey`], [`Error::Limit`] if key or signer are not the header's.
    pub fn new(
        header: ImageHeader,
        key: Option<&ContentKey>,
        signer: Option<Arc<SigningKey>>,
        level: i32,
    ) -> Result<Self, Error> {
        let keys = ImageKeys::derive(key, &header.salt, &header.identity.uuid);
        if keys.check() != header.key_check {
            return Err(Error::WrongKey);
        }
        if signer
            .as_ref()
            .map(|key| key.verifying_key().id())
            .unwrap_or_default()
            != header.signer()
        {
            return Err(Error::Limit {
                field: "signer",
                detail: "not the one that the header names".into(),
            });
        }
        let cipher = keys.chunk_cipher(header.cipher())?;
        let header_bytes = header.to_bytes(signer.as_deref());
        let shared = Shared {
            header,
            header_bytes,
            keys,
            cipher,
            signer,
        };
        Ok(Self {
            shared: Arc::new(shared),
            level,
            compressor: compressor(level)?,
        })
    }

    /// Another sealer of the same image.
    ///
    /// # Errors
    /// [`Error::Compress`] if the codec has no memory left.
    pub fn for_thread(&self) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::clone(&self.shared),
            level: self.level,
            compressor: compressor(self.level)?,
        })
    }

    /// The image's header.
    pub fn header(&self) -> &ImageHeader {
        &self.shared.header
    }

    /// The header's signed bytes, with which the image begins.
    pub fn header_bytes(&self) -> &[u8] {
        &self.shared.header_bytes
    }

    /// Seals the chunk with this index: `data` is what stands in `regions`, one after the other. `out` is cleared and
    /// gets the chunk's bytes, a whole number of blocks. An index must never be sealed twice with different data.
    ///
    /// # Errors
    /// [`Error::Limit`] if regions, span and data do not fit each other or the chunk size.
    pub fn seal(
        &mut self,
        index: u32,
        span: Span,
        regions: &[Region],
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Sealed, Error> {
        let Shared {
            header,
            keys,
            cipher,
            signer,
            ..
        } = &*self.shared;
        let part = Part::Chunk(index);
        let sectors: u64 = regions.iter().map(|region| u64::from(region.sectors)).sum();
        let fits = data.len() as u64 == sectors * u64::from(header.sector_size)
            && data.len() <= header.chunk_size as usize
            && span.end() <= header.disk_sectors;
        let plain_length = u32::try_from(data.len()).ok().filter(|_| fits);
        let plain_length = plain_length.ok_or_else(|| Error::Limit {
            field: "regions",
            detail: format!("{part}: do not fit its data"),
        })?;

        out.clear();
        out.resize(BLOCK_SIZE, 0);
        payload::write(span, regions, out)?;
        let data_at = out.len();
        // One byte less than the data: what does not shrink is stored.
        out.resize(data_at + data.len(), 0);
        let room = data.len().saturating_sub(1);
        let shrunk = match header.codec() {
            Codec::Zstd => self
                .compressor
                .compress_to_buffer(data, &mut out[data_at..data_at + room])
                .ok(),
            Codec::None => None,
        };
        let mut identity = header.identity.clone();
        match shrunk {
            Some(length) => out.truncate(data_at + length),
            None => {
                identity.codec = Codec::None;
                out[data_at..].copy_from_slice(data);
            }
        }
        let tag = if cipher.is_some() { TAG_SIZE } else { 0 };
        let body_length =
            u32::try_from(out.len() - BLOCK_SIZE + tag).map_err(|_| Error::Limit {
                field: "body length",
                detail: format!("{part} is too long"),
            })?;
        let plain_hash = keys.plain_hash(data);
        let mut chunk = ChunkHeader {
            identity,
            index,
            body_length,
            plain_length,
            body_root: [0; 32],
            plain_hash,
        };
        if let Some(cipher) = cipher {
            let tag = cipher.seal(
                index,
                &chunk.associated_data(),
                &mut out[BLOCK_SIZE..],
                part,
            )?;
            out.extend_from_slice(&tag);
        }
        chunk.body_root = *blake3::hash(&out[BLOCK_SIZE..]).as_bytes();
        chunk.write(signer.as_deref(), &mut out[..BLOCK_SIZE]);
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);

        let entry = ChunkEntry {
            blocks: chunk.blocks(),
            root: *blake3::hash(out).as_bytes(),
        };
        Ok(Sealed {
            entry,
            secret: ChunkSecret { span, plain_hash },
            plain_length,
        })
    }

    /// Ends the image: the bytes of manifest and footer, which follow the last chunk.
    ///
    /// # Errors
    /// [`Error::Limit`] for too many chunks.
    pub fn finish(&self, chunks: &[Sealed]) -> Result<Vec<u8>, Error> {
        let Shared {
            header,
            header_bytes,
            keys,
            signer,
            ..
        } = &*self.shared;
        let lines: Vec<_> = chunks
            .iter()
            .map(|sealed| (sealed.entry, sealed.secret))
            .collect();
        let plain_bytes = chunks.iter().map(Sealed::plain_bytes).sum();
        let mut bytes = Manifest::build(
            header,
            header_bytes,
            keys,
            signer.as_deref(),
            &lines,
            plain_bytes,
        )?;
        let footer = Footer {
            uuid: header.identity.uuid,
            manifest_offset: HEADER_SIZE as u64
                + chunks.iter().map(Sealed::chunk_bytes).sum::<u64>(),
            manifest_length: bytes.len() as u64,
        };
        bytes.extend_from_slice(&footer.to_block());
        Ok(bytes)
    }
}
