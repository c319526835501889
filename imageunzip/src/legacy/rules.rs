//! What is asked of the chunks of an Emulab image, in whatever order they come, and the keys to open them.

use std::sync::OnceLock;

use chunkfmt::{Manifest, Span};
use frisbee_cli::policy::LegacyKeys;
use ndz::{
    Checked, Checksum, Chunk, Cipher, ContentKey, Demand, Error as NdzError, Header, ImageId,
    Integrity, Place, SECTOR_SIZE, Version,
};

use crate::Error;
use crate::open::Window;

const SECTOR: u64 = SECTOR_SIZE as u64;

/// What all chunks of an image have in common.
#[derive(Debug, PartialEq, Eq)]
struct Common {
    version: Version,
    cipher: Cipher,
    checksum: Checksum,
    image_id: Option<ImageId>,
    chunks: Option<u32>,
}

/// An image as a whole, if it is known before its chunks.
#[derive(Clone, Copy, Debug)]
struct Whole {
    chunks: u32,
    sectors: u64,
}

/// What is asked of an Emulab image, and the keys to open its chunks.
#[derive(Debug)]
pub struct Legacy {
    keys: LegacyKeys,
    whole: Option<Whole>,
    common: OnceLock<Common>,
}

impl Legacy {
    /// Asks of a file or pipe what `keys` ask for. That chunks follow each other is checked where they are read.
    pub fn new(keys: LegacyKeys) -> Self {
        Self {
            keys,
            whole: None,
            common: OnceLock::new(),
        }
    }

    /// As [`Legacy::new`] of an image that comes chunk by chunk in any order, and that a manifest describes.
    pub fn of_manifest(keys: LegacyKeys, manifest: &Manifest, sectors: u64) -> Self {
        let chunks = manifest.head.chunks;
        Self {
            whole: Some(Whole { chunks, sectors }),
            ..Self::new(keys)
        }
    }

    /// The id that the image must have.
    pub(crate) fn image_id(&self) -> Option<ImageId> {
        self.keys.image_id
    }

    /// Whether there is a key to open chunks with this cipher.
    pub(crate) fn can_open(&self, cipher: Cipher) -> bool {
        cipher == Cipher::None || !self.keys.content.is_empty()
    }

    /// Checks that a chunk can be installed, and throws its data away. `span` are the sectors that it answers for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        index: u32,
        bytes: &[u8],
        span: Span,
        window: &Window,
    ) -> Result<(), Error> {
        self.open(index, bytes, span, window, |_, _| ())
    }

    /// Checks a chunk completely, and hands what it holds to `then`.
    pub(crate) fn open<R>(
        &self,
        index: u32,
        bytes: &[u8],
        span: Span,
        window: &Window,
        then: impl FnOnce(&Header, Checked<'_>) -> R,
    ) -> Result<R, Error> {
        let chunk = Chunk::parse(index, bytes)?;
        let header = chunk.header();
        self.check_header(header, span)?;
        self.verify(&chunk)?;
        let end = end_of(header, span);
        if end > window.bytes {
            let found = window.bytes;
            return Err(Error::Beyond {
                chunk: index,
                end,
                found,
            });
        }
        let place = window.partition.map_or(Place::WholeDisk, Place::Partition);
        Ok(self.unlock(&chunk, place, |checked| then(header, checked))?)
    }

    /// Checks what the chunk's header says against what is known of the image.
    fn check_header(&self, header: &Header, span: Span) -> Result<(), NdzError> {
        let chunk = header.index;
        let found = Common {
            version: header.version,
            cipher: header.cipher,
            checksum: header.checksum,
            image_id: header.image_id,
            chunks: header.chunks,
        };
        if *self.common.get_or_init(|| Common { ..found }) != found {
            let what = "what it says of the image";
            return Err(NdzError::Foreign { chunk, what });
        }
        let own = header.span.map(|own| (own.first, own.end));
        let first_region = header.regions.first().map_or(0, |region| region.first);
        let inside = first_region >= span.first && header.end() <= span.end();
        if own.is_some_and(|own| own != (span.first, span.end())) || !inside {
            return Err(NdzError::Gap {
                chunk,
                found: own.map_or(first_region, |(first, _)| first),
                expected: span.first,
            });
        }
        let Some(whole) = self.whole else {
            return Ok(());
        };
        if header.has_short_sector() && span.end() != whole.sectors {
            return Err(NdzError::AfterEnd { chunk });
        }
        match header.chunks {
            Some(expected) if expected != whole.chunks => {
                let found = whole.chunks;
                Err(NdzError::Count { found, expected })
            }
            _ => Ok(()),
        }
    }

    /// Checks id, and checksum or signature.
    pub(crate) fn verify(&self, chunk: &Chunk<'_>) -> Result<Integrity, NdzError> {
        if let Some(expected) = self.keys.image_id {
            chunk.demand_image_id(expected)?;
        }
        let demand = match &self.keys.signer {
            Some(key) => Demand::Signature(key),
            None => Demand::Nothing,
        };
        chunk.verify(demand)
    }

    /// Decrypts and inflates a chunk with the key that fits.
    pub(crate) fn unlock<R>(
        &self,
        chunk: &Chunk<'_>,
        place: Place,
        then: impl FnOnce(Checked<'_>) -> R,
    ) -> Result<R, NdzError> {
        let mut wrong = None;
        for key in self.candidates() {
            match chunk.data(key).and_then(|data| data.check(place)) {
                Ok(checked) => return Ok(then(checked)),
                Err(error @ (NdzError::Decrypt { .. } | NdzError::Stream { .. })) => {
                    wrong.get_or_insert(error);
                }
                Err(other) => return Err(other),
            }
        }
        Err(wrong.unwrap_or(NdzError::KeyNeeded {
            chunk: chunk.header().index,
        }))
    }

    /// The keys to try, of which one is none if there are none.
    fn candidates(&self) -> impl Iterator<Item = Option<&ContentKey>> {
        let none = self.keys.content.is_empty().then_some(None);
        self.keys.content.iter().map(Some).chain(none)
    }
}

/// Where the image's bytes end that a chunk answers for.
pub(crate) fn end_of(header: &Header, span: Span) -> u64 {
    let short = header
        .relocations
        .iter()
        .find(|relocation| relocation.kind == chunkfmt::relocation::SHORT_SECTOR);
    match short {
        Some(short) => short
            .sector
            .saturating_mul(SECTOR)
            .saturating_add(short.size),
        None => span.end().saturating_mul(SECTOR),
    }
}
