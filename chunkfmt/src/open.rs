//! Opening chunks: from bytes that anybody may have sent to data that the owner signed (docs/FORMAT.md, section 11).
//!
//! The checks stand in the order of that section. Each one is fatal for the chunk and for nothing else.

use std::sync::Arc;

use crate::chunk::ChunkHeader;
use crate::cipher::{BodyCipher, ImageKeys};
use crate::codec::Unpacker;
use crate::manifest::{ChunkSecret, Manifest, PlainHash};
use crate::payload::{self, Layout};
use crate::prefix::expect_zero;
use crate::tree::Cv;
use crate::{
    BLOCK_SIZE, ChunkFormat, Codec, ContentKey, Error, ImageHeader, Part, Trust, VerifyingKey,
};

/// An image whose header is verified, with the keys to open its chunks.
pub struct Context {
    header: ImageHeader,
    keys: ImageKeys,
    /// `None` if the chunks cannot be opened: encrypted, and no key given.
    cipher: Option<Option<BodyCipher>>,
    owner: Option<VerifyingKey>,
}

impl Context {
    /// Verifies an image header and prepares to open the image's chunks with the one of `keys` that is the image's.
    ///
    /// # Errors
    /// What is wrong with the header, with trust, or with the key; [`Error::KeyMissing`] without a needed key.
    pub fn new(header_bytes: &[u8], trust: &Trust, keys: &[ContentKey]) -> Result<Self, Error> {
        let context = Self::without_key(header_bytes, trust, keys)?;
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
        keys: &[ContentKey],
    ) -> Result<Self, Error> {
        let header = ImageHeader::parse(header_bytes)?;
        let owner = header.verify(header_bytes, trust)?;
        let encrypted = header.cipher() != crate::Cipher::None;
        let derive = |key| ImageKeys::derive(key, &header.salt, &header.identity.uuid);
        // A key given for an image that is not encrypted is not used.
        let found = match encrypted {
            true => keys
                .iter()
                .map(|key| derive(Some(key)))
                .find(|derived| derived.check() == header.key_check),
            false => Some(derive(None)).filter(|derived| derived.check() == header.key_check),
        };
        let (keys, cipher) = match found {
            Some(found) => {
                let cipher = found.chunk_cipher(header.cipher())?;
                (found, Some(cipher))
            }
            None if encrypted && keys.is_empty() => (derive(None), None),
            None => return Err(Error::WrongKey),
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

    /// Whether chunks can be opened: the image is not encrypted, or its key was given.
    pub fn can_open(&self) -> bool {
        self.cipher.is_some()
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

    /// The plain hash that this image gives to a chunk with this layout and disk data.
    ///
    /// # Errors
    /// [`Error::KeyMissing`] if the image is encrypted and its key was not given; [`Error::Limit`] for a layout that
    /// cannot be written.
    pub fn plain_hash(&self, layout: &Layout, data: &[u8]) -> Result<PlainHash, Error> {
        if self.cipher.is_none() {
            return Err(Error::KeyMissing);
        }
        let mut bytes = Vec::new();
        payload::write(layout, self.header.sector_size, &mut bytes)?;
        Ok(self.keys.plain_hash(&bytes, data))
    }

    /// Checks a chunk's form, signature and digest, everything that needs no content key.
    ///
    /// # Errors
    /// What is wrong with the chunk.
    pub fn verify_chunk(&self, chunk: &[u8], index: u32) -> Result<Verified, Error> {
        let part = Part::Chunk(index);
        if self.header.chunk_format != ChunkFormat::Frz {
            return Err(Error::Legacy);
        }
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
        let padding = chunk.get(BLOCK_SIZE + header.body_length as usize..);
        expect_zero(padding.unwrap_or_default(), part)?;
        let root = header.check_digest(chunk)?;
        Ok(Verified { header, root })
    }
}

/// A chunk that its owner signed for this place in this image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its header.
    pub header: ChunkHeader,
    /// Its root, as the manifest should name it.
    pub root: Cv,
}

/// What the data of a chunk are put into.
pub trait Buffer: AsRef<[u8]> {
    /// Makes it this long, whatever it holds then, and hands it out.
    fn of_length(&mut self, length: usize) -> &mut [u8];
}

impl Buffer for Vec<u8> {
    fn of_length(&mut self, length: usize) -> &mut [u8] {
        self.resize(length, 0);
        self
    }
}

/// Opens chunks of one image; one per thread.
pub struct Opener {
    context: Arc<Context>,
    unpacker: Unpacker,
    check_plain: bool,
}

impl Opener {
    /// An opener for the image of `context`.
    ///
    /// # Errors
    /// [`Error::Decompress`] if the codec has no memory left.
    pub fn new(context: Arc<Context>) -> Result<Self, Error> {
        Ok(Self {
            context,
            unpacker: Unpacker::new()?,
            check_plain: true,
        })
    }

    /// Leaves out the last check, that the data has its plain hash. All bytes that the data is made of have passed
    /// their own checks by then; what the plain hash could still find is a fault of codec or memory, at the price of a
    /// fifth of the work.
    #[must_use]
    pub fn without_plain_hash(mut self) -> Self {
        self.check_plain = false;
        self
    }

    /// Verifies, decrypts and decompresses the chunk with this index.
    ///
    /// `chunk` is used as scratch space. `window_sectors` is what the operator allows to be written: sectors of the
    /// target. `layout` and `data` are filled: `data` holds the regions' sectors one after the other.
    ///
    /// # Errors
    /// The first check that failed. Then nothing in `layout` and `data` may be used.
    pub fn open(
        &mut self,
        index: u32,
        chunk: &mut [u8],
        window_sectors: u64,
        layout: &mut Layout,
        data: &mut impl Buffer,
    ) -> Result<Verified, Error> {
        let part = Part::Chunk(index);
        let context = &*self.context;
        let verified = context.verify_chunk(chunk, index)?;
        let header = &verified.header;
        let cipher = context.cipher.as_ref().ok_or(Error::KeyMissing)?;
        let body = chunk.get_mut(BLOCK_SIZE..).unwrap_or_default();
        let body = body
            .get_mut(..header.body_length as usize)
            .unwrap_or_default();
        let payload = match cipher {
            Some(cipher) => cipher.open(index, &header.associated_data(), body, part)?,
            None => body,
        };
        let sector_size = context.header.sector_size;
        let window = context.header.disk_sectors.min(window_sectors);
        let (tables, packed) = payload::parse(payload, window, sector_size, part, layout)?;
        if layout.data_sectors().checked_mul(u64::from(sector_size))
            != Some(u64::from(header.plain_length))
        {
            return Err(Error::Field {
                part,
                field: "plain length",
            });
        }
        // Bounded by the chunk size; the codec cannot write past it.
        let data = data.of_length(header.plain_length as usize);
        self.unpacker
            .unpack(header.codec(), packed, data)
            .ok_or(Error::Decompress {
                part,
                expected: header.plain_length,
            })?;
        if self.check_plain && context.keys.plain_hash(tables, data) != header.plain_hash {
            return Err(Error::PlainHash { part });
        }
        Ok(verified)
    }
}
