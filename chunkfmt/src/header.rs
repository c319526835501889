//! The image header: 4 KiB that say what the image is, signed by its owner (docs/FORMAT.md, section 6).

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cipher::{ImageKeys, fill_random};
use crate::prefix::{Identity, Prefix, SIGNATURE_AREA, expect_zero};
use crate::signature::{sign_block, verify_block};
use crate::{
    CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, ChunkFormat, Cipher, Codec, ContentKey, Error, HEADER_SIZE,
    KeyId, Part, SignatureAlgorithm, SigningKey, Suite, Trust, VerifyingKey,
};

const MAGIC: [u8; 8] = *b"FRZIMAGE";

/// Longest image name in bytes of UTF-8.
pub const NAME_MAX: usize = 255;

/// Most bytes of the wrapped content keys.
pub const WRAPPED_KEYS_MAX: usize = HEADER_SIZE - SIGNATURE_AREA - 432;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    prefix: Prefix,
    created: U64,
    sector_size: U32,
    chunk_size: U32,
    disk_sectors: U64,
    salt: [u8; 16],
    key_check: [u8; 16],
    base_uuid: [u8; 16],
    base_epoch: U64,
    base_manifest: [u8; 32],
    name_length: U16,
    chunk_format: u8,
    zero: u8,
    wrapped_length: U32,
    name: [u8; 256],
    wrapped: [u8; WRAPPED_KEYS_MAX],
    signature: [u8; SIGNATURE_AREA],
}

const _: () = assert!(size_of::<Raw>() == HEADER_SIZE);

/// The image that a delta is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its epoch.
    pub epoch: u64,
    /// The digest of its manifest: BLAKE3 over the manifest body with its padding.
    pub manifest: [u8; 32],
}

impl Base {
    /// Checks that this image is the base which the `delta` names.
    ///
    /// # Errors
    /// [`Error::WrongBase`]
    pub fn check(
        &self,
        delta: &ImageHeader,
        found: &ImageHeader,
        found_manifest: &[u8; 32],
    ) -> Result<(), Error> {
        let field = if found.uuid() != self.uuid {
            "UUID"
        } else if found.epoch() != self.epoch {
            "epoch"
        } else if *found_manifest != self.manifest {
            "manifest digest"
        } else if (found.disk_sectors, found.sector_size) != (delta.disk_sectors, delta.sector_size)
        {
            "disk size"
        } else {
            return Ok(());
        };
        let (uuid, epoch) = (self.uuid, self.epoch);
        Err(Error::WrongBase { field, uuid, epoch })
    }
}

/// What an image says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    pub(crate) identity: Identity,
    /// Seconds since 1970-01-01 UTC.
    pub created: u64,
    /// Bytes of a sector of the imaged disk: a power of two, 512 to 4096.
    pub sector_size: u32,
    /// Largest number of plain bytes in a chunk.
    pub chunk_size: u32,
    /// Sectors of the imaged disk.
    pub disk_sectors: u64,
    /// The image's name, at most [`NAME_MAX`] bytes.
    pub name: String,
    /// For a delta, the image that holds the chunks which this one leaves out.
    pub base: Option<Base>,
    /// What the chunks are.
    pub chunk_format: ChunkFormat,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) salt: [u8; 16],
    pub(crate) key_check: [u8; 16],
}

impl ImageHeader {
    /// Describes a new image with a fresh random UUID and salt.
    ///
    /// Encrypted if there is a content `key`, signed if there is a `signer`.
    ///
    /// # Errors
    /// [`Error::Limit`] for a value that the format cannot hold.
    pub fn new(
        name: String,
        epoch: u64,
        sector_size: u32,
        disk_sectors: u64,
        key: Option<&ContentKey>,
        signer: Option<&SigningKey>,
    ) -> Result<Self, Error> {
        let mut salt = [0; 16];
        fill_random(&mut salt)?;
        let uuid = Uuid::new_v4().into_bytes();
        let header = Self {
            identity: Identity {
                uuid,
                epoch,
                signer: signer
                    .map(|key| key.verifying_key().id())
                    .unwrap_or_default(),
                signature: signer.map_or(SignatureAlgorithm::None, SigningKey::algorithm),
                codec: Codec::Zstd,
                cipher: key.map_or(Cipher::None, |_| Cipher::Aes256Gcm),
            },
            created: 0,
            sector_size,
            chunk_size: CHUNK_SIZE_MAX,
            disk_sectors,
            name,
            base: None,
            chunk_format: ChunkFormat::Frz,
            wrapped: Vec::new(),
            salt,
            key_check: ImageKeys::derive(key, &salt, &uuid).check(),
        };
        header.check()?;
        Ok(header)
    }

    /// Names another codec than Zstandard.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.identity.codec = codec;
        self
    }

    /// Names another cipher than AES-256-GCM.
    ///
    /// # Errors
    /// [`Error::Limit`] for a cipher without a content key, or the other way round.
    pub fn with_cipher(mut self, cipher: Cipher) -> Result<Self, Error> {
        if (cipher == Cipher::None) != (self.identity.cipher == Cipher::None) {
            return Err(Error::Limit {
                field: "cipher",
                detail: "an image is encrypted if it has a content key, and only then".into(),
            });
        }
        self.identity.cipher = cipher;
        Ok(self)
    }

    /// Makes it a delta: an image that leaves out chunks which `base` holds.
    #[must_use]
    pub fn with_base(mut self, base: Base) -> Self {
        self.base = Some(base);
        self
    }

    /// Puts the content key, wrapped for those who may open the image (a file of the age format), into the header;
    /// an empty one takes it out.
    ///
    /// # Errors
    /// [`Error::Limit`] for more than [`WRAPPED_KEYS_MAX`] bytes, or an image that is not encrypted.
    pub fn with_wrapped_keys(mut self, wrapped: Vec<u8>) -> Result<Self, Error> {
        self.wrapped = wrapped;
        self.check()?;
        Ok(self)
    }

    /// The wrapped content key, empty if there is none.
    pub fn wrapped_keys(&self) -> &[u8] {
        &self.wrapped
    }

    /// The algorithms that go together in this image, if they do.
    pub fn suite(&self) -> Option<Suite> {
        [Suite::Modern, Suite::Classic]
            .into_iter()
            .find(|suite| suite.admits(self.codec(), self.cipher(), self.signature_algorithm()))
    }

    /// Says when the image was made, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn with_created(mut self, created: u64) -> Self {
        self.created = created;
        self
    }

    /// Names another chunk size than 2 MiB.
    ///
    /// # Errors
    /// [`Error::Limit`]
    pub fn with_chunk_size(mut self, chunk_size: u32) -> Result<Self, Error> {
        self.chunk_size = chunk_size;
        self.check()?;
        Ok(self)
    }

    /// The image's UUID.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_bytes(self.identity.uuid)
    }

    /// The owner's version number of the image.
    pub fn epoch(&self) -> u64 {
        self.identity.epoch
    }

    /// Codec of the chunks that shrink.
    pub fn codec(&self) -> Codec {
        self.identity.codec
    }

    /// Cipher of chunks and manifest.
    pub fn cipher(&self) -> Cipher {
        self.identity.cipher
    }

    /// Algorithm of the owner's signatures.
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.identity.signature
    }

    /// Who signed.
    pub fn signer(&self) -> KeyId {
        self.identity.signer
    }

    /// Bytes of the imaged disk.
    pub fn disk_bytes(&self) -> u64 {
        // `check` has made sure that this fits.
        self.disk_sectors
            .saturating_mul(u64::from(self.sector_size))
    }

    /// Reads a header and checks its form, not its signature.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], [`Error::Truncated`], [`Error::Version`], [`Error::Field`]
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let part = Part::Header;
        if bytes.get(..MAGIC.len()).is_none_or(|magic| magic != MAGIC) {
            return Err(Error::NotAnImage);
        }
        let truncated = || Error::Truncated {
            part,
            offset: bytes.len() as u64,
        };
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| truncated())?;
        let identity = raw.prefix.identity(part)?;
        expect_zero(&[raw.zero], part)?;
        let field = |field| Error::Field { part, field };
        let (name, padding) = raw
            .name
            .split_at_checked(usize::from(raw.name_length.get()))
            .ok_or_else(|| field("name length"))?;
        expect_zero(padding, part)?;
        let name = std::str::from_utf8(name).map_err(|_| field("name"))?;
        let (wrapped, padding) = raw
            .wrapped
            .split_at_checked(usize::try_from(raw.wrapped_length.get()).unwrap_or(usize::MAX))
            .ok_or_else(|| field("wrapped key length"))?;
        expect_zero(padding, part)?;
        let base = Base {
            uuid: Uuid::from_bytes(raw.base_uuid),
            epoch: raw.base_epoch.get(),
            manifest: raw.base_manifest,
        };
        if base.uuid.is_nil() && (base.epoch != 0 || base.manifest != [0; 32]) {
            return Err(field("base"));
        }
        let header = Self {
            identity,
            created: raw.created.get(),
            sector_size: raw.sector_size.get(),
            chunk_size: raw.chunk_size.get(),
            disk_sectors: raw.disk_sectors.get(),
            name: name.into(),
            base: Some(base).filter(|base| !base.uuid.is_nil()),
            chunk_format: ChunkFormat::from_number(raw.chunk_format, part)?,
            wrapped: wrapped.to_vec(),
            salt: raw.salt,
            key_check: raw.key_check,
        };
        header.check().map_err(|error| match error {
            Error::Limit { field: name, .. } => field(name),
            other => other,
        })?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Error> {
        let limit = |field, detail: &str| {
            Err(Error::Limit {
                field,
                detail: detail.into(),
            })
        };
        if !self.sector_size.is_power_of_two() || !(512..=4096).contains(&self.sector_size) {
            return limit("sector size", "512, 1024, 2048 or 4096 bytes");
        }
        if !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&self.chunk_size)
            || !self.chunk_size.is_multiple_of(self.sector_size)
        {
            return limit("chunk size", "64 KiB to 2 MiB, in whole sectors");
        }
        if self
            .disk_sectors
            .checked_mul(u64::from(self.sector_size))
            .is_none_or(|bytes| i64::try_from(bytes).is_err())
        {
            return limit("disk sectors", "less than 8 EiB");
        }
        if self.wrapped.len() > WRAPPED_KEYS_MAX {
            return limit("wrapped keys", "at most 3152 bytes: name fewer recipients");
        }
        if !self.wrapped.is_empty() && self.cipher() == Cipher::None {
            return limit("wrapped keys", "the image is not encrypted");
        }
        if self.chunk_format == ChunkFormat::Ndz
            && (self.base.is_some()
                || self.sector_size != 512
                || (self.codec(), self.cipher()) != (Codec::None, Cipher::None))
        {
            return limit(
                "chunk format",
                "chunks of Emulab stand alone, as they are, with sectors of 512 bytes",
            );
        }
        if self.name.len() > NAME_MAX || self.name.chars().any(char::is_control) {
            return limit("name", "at most 255 bytes, without control characters");
        }
        Ok(())
    }

    /// The header's bytes, signed with `signer`.
    ///
    /// # Errors
    /// [`Error::Limit`] if `signer` is not the one that the header names, [`Error::Signing`] if it fails.
    pub fn to_bytes(&self, signer: Option<&SigningKey>) -> Result<Vec<u8>, Error> {
        let named = (self.signer(), self.signature_algorithm());
        let given = signer.map_or((KeyId::default(), SignatureAlgorithm::None), |key| {
            (key.verifying_key().id(), key.algorithm())
        });
        if named != given {
            return Err(Error::Limit {
                field: "signer",
                detail: "not the one that the header names".into(),
            });
        }
        let mut wrapped = [0; WRAPPED_KEYS_MAX];
        wrapped[..self.wrapped.len()].copy_from_slice(&self.wrapped);
        let mut name = [0; 256];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let raw = Raw {
            prefix: Prefix::new(MAGIC, &self.identity),
            created: self.created.into(),
            sector_size: self.sector_size.into(),
            chunk_size: self.chunk_size.into(),
            disk_sectors: self.disk_sectors.into(),
            salt: self.salt,
            key_check: self.key_check,
            base_uuid: self.base.map_or([0; 16], |base| base.uuid.into_bytes()),
            base_epoch: self.base.map_or(0, |base| base.epoch).into(),
            base_manifest: self.base.map_or([0; 32], |base| base.manifest),
            name_length: u16::try_from(self.name.len()).unwrap_or(0).into(),
            chunk_format: self.chunk_format.number(),
            zero: 0,
            wrapped_length: u32::try_from(self.wrapped.len()).unwrap_or(0).into(),
            name,
            wrapped,
            signature: [0; SIGNATURE_AREA],
        };
        let mut bytes = raw.as_bytes().to_vec();
        sign_block(signer, &mut bytes)?;
        Ok(bytes)
    }

    /// Checks the owner's signature over the header's `bytes`; returns the key that all else must be signed with
    /// (`None`: nothing is checked, the caller allowed that).
    ///
    /// # Errors
    /// [`Error::Unsigned`], [`Error::UntrustedSigner`], [`Error::BadSignature`], [`Error::NotForThisName`]
    pub(crate) fn verify(
        &self,
        bytes: &[u8],
        trust: &Trust,
    ) -> Result<Option<VerifyingKey>, Error> {
        let key = trust.choose(self.identity.signature, self.identity.signer)?;
        let bytes = bytes.get(..HEADER_SIZE).unwrap_or(bytes);
        verify_block(key.as_ref(), self.identity.signature, bytes, Part::Header)?;
        if key.is_some() {
            trust.check_name(self.identity.signer, &self.name)?;
        }
        Ok(key)
    }
}
