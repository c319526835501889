//! Opening chunks: from bytes that anybody may have sent to data that the owner signed (docs/FORMAT.md, section 11).
//!
//! The checks stand in the order of that section. Each one is fatal for the chunk and for nothing else.

use std::sync::Arc;

use zstd::bulk::Decompressor;

use crate::chunk::ChunkHeader;
use crate::cipher::{BodyCipher, ImageKeys};
use crate::layout::expect_zero;
use crate::manifest::{ChunkSecret, Manifest};
use crate::payload::{self, Region, Span};
use crate::{BLOCK_SIZE, Codec, ContentKey, Error, ImageHeader, Part, Trust, VerifyingKey};

/// An image whose header is verified, with the keys to open its chunks.
pub struct Context {
    header: ImageHeader,
    keys: ImageKeys,
    /// `None` if the chunks cannot be opened: encrypted, and no key given.
    cipher: Option<Option<BodyCipher>>,
    owner: Option<VerifyingKey>,
}

impl Context {
    /// Verifies an image header and prepares to open the image's chunks.
    ///
    /// # Errors
    /// What is wrong with the header, with trust, or with the key; [`Error::KeyMissing`] without a needed key.
    pub fn new(
        header_bytes: &[u8],
        trust: &Trust,
        key: Option<&ContentKey>,
    ) -> Result<Self, Error> {
        let context = Self::without_key(header_bytes, trust, key)?;
        match context.cipher {
            Some(_) => Ok(context),
            None => Err(Error::KeyMissing),
        }
    }

    /// As [`Context::new`], but a missing content key is no error: signatures can be checked, chunks not opened.
    ///
    /// # Errors
    /// As [`Context::new`], except for [`Error::KeyMissing`].
    pub fn without_key(
        header_bytes: &[u8],
        trust: &Trust,
        key: Option<&ContentKey>,
    ) -> Result<Self, Error> {
        let header = ImageHeader::parse(header_bytes)?;
        let owner = header.verify(header_bytes, trust)?;
        let encrypted = header.cipher() != crate::Cipher::None;
        // A key given for an image that is not encrypted is not used.
        let keys = ImageKeys::derive(
            key.filter(|_| encrypted),
            &header.salt,
            &header.identity.uuid,
        );
        let cipher = match (encrypted, key) {
            (true, None) => None,
            _ if keys.check() != header.key_check => return Err(Error::WrongKey),
            _ => Some(keys.chunk_cipher(header.cipher())?),
        };
        Ok(Self {
            header,
            keys,
            cipher,
            owner,
        })
    }

    /// The image's header.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// Whether signatures are checked: `false` if unsigned images are allowed and this one has no checked owner.
    pub fn is_verified(&self) -> bool {
        self.owner.is_some()
    }

    /// The manifest's private part: which sectors each chunk is about.
    ///
    /// # Errors
    /// [`Error::KeyMissing`], [`Error::Decrypt`], [`Error::Field`]
    pub fn secrets(&self, manifest: &Manifest) -> Result<Vec<ChunkSecret>, Error> {
        manifest.head.belongs_to(&self.header)?;
        match self.cipher {
            Some(_) => manifest.secrets(&self.keys, &self.header),
            None => Err(Error::KeyMissing),
        }
    }

    /// Checks a chunk's form, signature and body root, everything that needs no content key.
    ///
    /// # Errors
    /// What is wrong with the chunk.
    pub fn verify_chunk(&self, chunk: &[u8], index: u32) -> Result<ChunkHeader, Error> {
        let part = Part::Chunk(index);
        let header = ChunkHeader::parse(chunk, index)?;
        if chunk.len() != header.blocks() as usize * BLOCK_SIZE {
            return Err(Error::Field {
                part,
                field: "body length",
            });
        }
        self.header.identity.expect(&header.identity, part)?;
        let block = chunk.get(..BLOCK_SIZE).unwrap_or(chunk);
        header.verify(block, self.owner.as_ref())?;
        if header.index != index {
            return Err(Error::Foreign {
                part,
                field: "index",
            });
        }
        if header.codec() != Codec::None && header.codec() != self.header.codec() {
            return Err(Error::Foreign {
                part,
                field: "codec",
            });
        }
        if header.plain_length > self.header.chunk_size {
            return Err(Error::Field {
                part,
                field: "plain length",
            });
        }
        let body = chunk.get(BLOCK_SIZE..).unwrap_or_default();
        let (body, padding) =
            body.split_at_checked(header.body_length as usize)
                .ok_or(Error::Field {
                    part,
                    field: "body length",
                })?;
        expect_zero(padding, part)?;
        match *blake3::hash(body).as_bytes() == header.body_root {
            true => Ok(header),
            false => Err(Error::Altered { part }),
        }
    }
}

/// What an opened chunk says; its data and regions are in the buffers that were lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedChunk {
    /// The sectors that the chunk answers for: free where no region is.
    pub span: Span,
}

/// Opens chunks of one image; one per thread.
pub struct Opener {
    context: Arc<Context>,
    decompressor: Decompressor<'static>,
}

impl Opener {
    /// An opener for the image of `context`.
    ///
    /// # Errors
    /// [`Error::Decompress`] if the codec has no memory left.
    pub fn new(context: Arc<Context>) -> Result<Self, Error> {
        let decompressor = Decompressor::new().map_err(|_| Error::Decompress {
            part: Part::Header,
            expected: 0,
        })?;
        Ok(Self {
            context,
            decompressor,
        })
    }

    /// Verifies, decrypts and decompresses the chunk with this index.
    ///
    /// `chunk` is used as scratch space. `window_sectors` is what the operator allows to be written: sectors of the
    /// target. `regions` and `data` are cleared and filled: `data` holds the regions' sectors one after the other.
    ///
    /// # Errors
    /// The first check that failed. Then nothing in `data` may be used.
    pub fn open(
        &mut self,
        index: u32,
        chunk: &mut [u8],
        window_sectors: u64,
        regions: &mut Vec<Region>,
        data: &mut Vec<u8>,
    ) -> Result<OpenedChunk, Error> {
        let part = Part::Chunk(index);
        regions.clear();
        let context = &*self.context;
        let header = context.verify_chunk(chunk, index)?;
        let cipher = context.cipher.as_ref().ok_or(Error::KeyMissing)?;
        let body = chunk.get_mut(BLOCK_SIZE..).unwrap_or_default();
        let body = body
            .get_mut(..header.body_length as usize)
            .unwrap_or_default();
        let payload = match cipher {
            Some(cipher) => cipher.open(index, &header.associated_data(), body, part)?,
            None => body,
        };
        let window = context.header.disk_sectors.min(window_sectors);
        let (span, packed) = payload::parse(payload, window, part, regions)?;
        let sectors: u64 = regions.iter().map(|region| u64::from(region.sectors)).sum();
        if sectors.checked_mul(u64::from(context.header.sector_size))
            != Some(u64::from(header.plain_length))
        {
            return Err(Error::Field {
                part,
                field: "plain length",
            });
        }
        let length = header.plain_length as usize;
        // Bounded by the chunk size; the codec cannot write past it.
        data.resize(length, 0);
        match header.codec() {
            Codec::None if packed.len() == length => data.copy_from_slice(packed),
            Codec::None => {
                return Err(Error::Field {
                    part,
                    field: "plain length",
                });
            }
            Codec::Zstd => {
                let written = self
                    .decompressor
                    .decompress_to_buffer(packed, &mut data[..]);
                if written.ok() != Some(length) {
                    return Err(Error::Decompress {
                        part,
                        expected: header.plain_length,
                    });
                }
            }
        }
        match context.keys.plain_hash(data) == header.plain_hash {
            true => Ok(OpenedChunk { span }),
            false => Err(Error::PlainHash { part }),
        }
    }
}
