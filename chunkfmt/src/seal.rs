//! Making an image: disk data to chunk bytes, and the manifest at the end (docs/FORMAT.md, sections 7 to 10).

use std::sync::Arc;

use crate::chunk::{BODY_MAX, ChunkHeader};
use crate::cipher::{BodyCipher, ImageKeys};
use crate::codec::{self, Packer};
use crate::manifest::{ChunkEntry, ChunkSecret, Line, Manifest, PlainHash};
use crate::parity::{ParityEncoder, usual_count};
use crate::payload::{self, Layout};
use crate::{
    BLOCK_SIZE, Codec, ContentKey, Error, Footer, HEADER_SIZE, ImageHeader, Part, SigningKey,
};

/// Bytes of a chunk besides data and tables: two headers, tag or MAC, padding.
const SEAL_ROOM: usize = 4 * BLOCK_SIZE;

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
    packer: Packer,
    /// `None` leaves the parity roots out.
    parity: Option<ParityEncoder>,
    zeros: Option<Zeros>,
}

/// What comes of data that are nothing but zeros. A disk may have very many of them, and chunks of one length.
struct Zeros {
    length: usize,
    hash: [u8; 32],
    packed: Vec<u8>,
}

/// Whether data are nothing but zeros; for others that is clear at once.
fn is_zero(data: &[u8]) -> bool {
    match data.split_first() {
        // Each byte is as the one before it.
        Some((0, rest)) => data.starts_with(rest),
        _ => false,
    }
}

/// A sealed chunk's lines of the manifest, to be handed to [`Sealer::finish`] in the order of the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    entry: ChunkEntry,
    secret: ChunkSecret,
    /// Bytes of disk data in this image.
    plain_length: u32,
}

impl Sealed {
    /// Bytes of the chunk, a whole number of blocks.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.entry.blocks) * BLOCK_SIZE as u64
    }

    /// Whether the chunk is in the image, rather than left out of a delta.
    pub fn is_present(&self) -> bool {
        self.entry.is_present()
    }

    /// Bytes of disk data in the chunk, 0 if it is left out.
    pub fn plain_bytes(&self) -> u64 {
        u64::from(self.plain_length)
    }
}

/// Checks that a layout and its data fit each other and a chunk of the image; returns the data's length.
fn check_fit(header: &ImageHeader, part: Part, layout: &Layout, data: &[u8]) -> Result<u32, Error> {
    let length = layout
        .data_sectors()
        .checked_mul(u64::from(header.sector_size));
    let fits = length == Some(data.len() as u64)
        && data.len() <= header.chunk_size as usize
        && layout.span.end() <= header.disk_sectors;
    u32::try_from(data.len())
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| Error::Limit {
            field: "regions",
            detail: format!("{part}: do not fit its data"),
        })
}

/// Memory that sealing takes, in bytes, as a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealingMemory {
    /// Of each [`Sealer`].
    pub worker: u64,
    /// Of a buffer for a sealed chunk.
    pub chunk: u64,
}

impl SealingMemory {
    /// That of a codec at a level, for chunks of this size.
    pub fn of(codec: Codec, level: i32, chunk_size: u32) -> Self {
        let chunk = u64::from(chunk_size);
        // Headers, and tables of a region for every other sector.
        let chunk_bytes = chunk + chunk / 64 + (16 << 10);
        Self {
            // Parity: the blocks of the chunk, up to the next multiple of an eighth of them, and an eighth of it twice.
            worker: codec::memory(codec, level) + chunk_bytes + chunk / 2,
            chunk: chunk_bytes,
        }
    }
}

impl Sealer {
    /// Begins an image. `key` and `signer` must be those that the header was made with; `level` is the codec's: 1 to 19 for
    /// Zstandard, 0 to 9 for zlib.
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
        let cipher = keys.chunk_cipher(header.cipher())?;
        let header_bytes = header.to_bytes(signer.as_deref())?;
        let shared = Shared {
            header,
            header_bytes,
            keys,
            cipher,
            signer,
        };
        let packer = Packer::new(shared.header.codec(), level)?;
        Ok(Self {
            shared: Arc::new(shared),
            level,
            packer,
            parity: Some(ParityEncoder::default()),
            zeros: None,
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
            packer: Packer::new(self.header().codec(), self.level)?,
            parity: self.parity.as_ref().map(|_| ParityEncoder::default()),
            zeros: None,
        })
    }

    /// Leaves the parity roots out of the manifest: servers then repair losses by sending the same blocks again.
    #[must_use]
    pub fn without_parity(mut self) -> Self {
        self.parity = None;
        self
    }

    /// The image's header.
    pub fn header(&self) -> &ImageHeader {
        &self.shared.header
    }

    /// The header's signed bytes, with which the image begins.
    pub fn header_bytes(&self) -> &[u8] {
        &self.shared.header_bytes
    }

    /// The plain hash of a chunk with this layout and data.
    ///
    /// # Errors
    /// [`Error::Limit`] if the layout cannot be written.
    pub fn plain_hash(&self, layout: &Layout, data: &[u8]) -> Result<PlainHash, Error> {
        let mut bytes = Vec::new();
        payload::write(layout, self.header().sector_size, &mut bytes)?;
        Ok(self.shared.keys.plain_hash(&bytes, data))
    }

    /// The manifest's lines for a chunk that a delta leaves out, as its base holds it.
    ///
    /// # Errors
    /// [`Error::Limit`] if the image is no delta, or the layout cannot be written.
    pub fn leave_out(&self, layout: Layout, data: &[u8]) -> Result<Sealed, Error> {
        if self.header().base.is_none() {
            return Err(Error::Limit {
                field: "base",
                detail: "only a delta can leave out a chunk".into(),
            });
        }
        check_fit(self.header(), Part::Manifest, &layout, data)?;
        let plain_hash = self.plain_hash(&layout, data)?;
        Ok(Sealed {
            entry: ChunkEntry::default(),
            secret: ChunkSecret { plain_hash, layout },
            plain_length: 0,
        })
    }

    /// Seals the chunk with this index: `data` is what stands in the layout's regions, one after the other. `out` is
    /// cleared and gets the chunk's bytes, a whole number of blocks. An index must never be sealed twice with
    /// different data.
    ///
    /// # Errors
    /// [`Error::Limit`] if layout and data do not fit each other or the chunk size; [`Error::Signing`]
    pub fn seal(
        &mut self,
        index: u32,
        layout: Layout,
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
        let plain_length = check_fit(header, part, &layout, data)?;

        out.clear();
        // All that it can become, so that it never moves nor doubles.
        out.reserve_exact(
            data.len() + 8 * layout.regions.len() + 24 * layout.relocations.len() + SEAL_ROOM,
        );
        out.resize(BLOCK_SIZE, 0);
        payload::write(&layout, header.sector_size, out)?;
        let mut identity = header.identity.clone();
        let zero = is_zero(data);
        let known = self
            .zeros
            .as_ref()
            .filter(|zeros| zero && zeros.length == data.len());
        let plain_hash = match known {
            Some(zeros) => {
                let plain_hash = keys.plain_hash_with(&out[BLOCK_SIZE..], &zeros.hash);
                out.extend_from_slice(&zeros.packed);
                plain_hash
            }
            None => {
                let hash = keys.data_hash(data);
                let plain_hash = keys.plain_hash_with(&out[BLOCK_SIZE..], &hash);
                let start = out.len();
                if !self.packer.pack(data, out) {
                    identity.codec = Codec::None;
                    out.extend_from_slice(data);
                } else if zero {
                    self.zeros = Some(Zeros {
                        length: data.len(),
                        hash,
                        packed: out[start..].to_vec(),
                    });
                }
                plain_hash
            }
        };
        let body_length = header.cipher().sealed_length(out.len() - BLOCK_SIZE);
        let body_length = u32::try_from(body_length)
            .ok()
            .filter(|&length| length as usize <= BODY_MAX)
            .ok_or_else(|| Error::Limit {
                field: "body length",
                detail: format!("{part} is too long"),
            })?;
        let mut chunk = ChunkHeader {
            identity,
            index,
            body_length,
            plain_length,
            digest: [0; 32],
            plain_hash,
        };
        if let Some(cipher) = cipher {
            cipher.seal(index, &chunk.associated_data(), out, BLOCK_SIZE, part)?;
        }
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
        let root = chunk.write(signer.as_deref(), out)?;
        let mut entry = ChunkEntry {
            blocks: chunk.blocks(),
            root,
            ..ChunkEntry::default()
        };
        if let Some(parity) = &mut self.parity {
            entry.parity_blocks = usual_count(entry.blocks);
            entry.parity_root = parity.root(out, entry.parity_blocks)?;
        }
        Ok(Sealed {
            entry,
            secret: ChunkSecret { plain_hash, layout },
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
        let lines: Vec<Line<'_>> = chunks
            .iter()
            .map(|sealed| (sealed.entry, &sealed.secret))
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
