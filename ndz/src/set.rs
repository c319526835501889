//! Whether chunks belong together and nothing is missing between them. No checksum of the format covers that.

use crate::{Checksum, Cipher, DATA_SIZE, Error, Header, ImageId, Span, Version};

/// A C writer ends a chunk when less than this is free in its data area.
const FULL_MARGIN: usize = 8192;

/// A C writer up to 2016 counts with a header of this size in all versions before 5.
const REGION_ROOM: usize = 4096 - 344;

/// The checks over all chunks of an image, which must be added in order.
#[derive(Debug)]
pub struct Set {
    image_id: Option<ImageId>,
    first: Option<Common>,
    /// Number of chunks, if one of them has told it.
    total: Option<u32>,
    chunks: u32,
    next_sector: u64,
    ended: bool,
    last_full: bool,
}

/// What all chunks of an image have in common.
#[derive(Clone, Copy, Debug)]
struct Common {
    version: Version,
    cipher: Cipher,
    checksum: Checksum,
    image_id: Option<ImageId>,
}

/// What an image turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its version.
    pub version: Version,
    /// Number of chunks.
    pub chunks: u32,
    /// Sectors that the image accounts for: size of the imaged disk or partition if the writer knew it, else the end of
    /// the last region.
    pub sectors: u64,
    /// The last chunk is full, as only a chunk that others follow needs to be. Versions 2 to 5 do not tell the number of
    /// chunks, so a file that was cut between two chunks shows in nothing else. A complete image has a full last chunk
    /// about once in 100 times, or when its region list happens to be full.
    pub maybe_cut: bool,
}

impl Default for Set {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Set {
    /// No chunk yet. With an `image_id`, chunks with another one, or without, are refused.
    #[must_use]
    pub fn new(image_id: Option<ImageId>) -> Self {
        Self {
            image_id,
            first: None,
            total: None,
            chunks: 0,
            next_sector: 0,
            ended: false,
            last_full: false,
        }
    }

    /// Position of the chunk that has to come next.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.chunks
    }

    /// Checks the next chunk's header and gives the sectors that the chunk accounts for. Those of version 1, which does
    /// not store them, begin where the chunk before ended and end with the last region.
    ///
    /// # Errors
    /// The chunk is not the next one of this image.
    pub fn add(&mut self, header: &Header) -> Result<Span, Error> {
        let chunk = self.chunks;
        if header.index != chunk {
            let rule = "not the chunk's position in the image";
            return Err(Error::Field {
                chunk,
                field: "blockindex",
                found: header.index.into(),
                rule,
            });
        }
        if let Some(expected) = self.image_id
            && header.image_id != Some(expected)
        {
            return Err(Error::ImageId {
                chunk,
                found: header.image_id,
                expected,
            });
        }
        let common = Common {
            version: header.version,
            cipher: header.cipher,
            checksum: header.checksum,
            image_id: header.image_id,
        };
        if let Some(what) = self.first.as_ref().and_then(|first| first.differs(&common)) {
            return Err(Error::Foreign { chunk, what });
        }
        if header
            .chunks
            .zip(self.total)
            .is_some_and(|(here, before)| here != before)
        {
            return Err(Error::Foreign {
                chunk,
                what: "the number of chunks",
            });
        }
        if self.ended || self.total.is_some_and(|total| chunk >= total) {
            return Err(Error::AfterEnd { chunk });
        }
        let span = header.span.unwrap_or(Span {
            first: self.next_sector,
            end: header.end(),
        });
        let first_region = header
            .regions
            .first()
            .map_or(span.first, |region| region.first);
        if span.first != self.next_sector || first_region < span.first {
            let found = if header.span.is_some() {
                span.first
            } else {
                first_region
            };
            return Err(Error::Gap {
                chunk,
                found,
                expected: self.next_sector,
            });
        }
        self.first = self.first.or(Some(common));
        self.total = self.total.or(header.chunks);
        self.next_sector = span.end;
        self.ended = header.has_short_sector();
        self.last_full = is_full(header);
        self.chunks = chunk.checked_add(1).ok_or(Error::AfterEnd { chunk })?;
        Ok(span)
    }

    /// Ends the image.
    ///
    /// # Errors
    /// There was no chunk, or fewer or more than the header says.
    pub fn finish(&self) -> Result<Summary, Error> {
        let first = self.first.ok_or(Error::Empty)?;
        if let Some(expected) = self.total
            && expected != self.chunks
        {
            return Err(Error::Count {
                found: self.chunks,
                expected,
            });
        }
        Ok(Summary {
            version: first.version,
            chunks: self.chunks,
            sectors: self.next_sector,
            maybe_cut: self.last_full && self.total.is_none() && !self.ended,
        })
    }
}

impl Common {
    fn differs(&self, other: &Self) -> Option<&'static str> {
        if self.version != other.version {
            Some("the version")
        } else if self.cipher != other.cipher {
            Some("the cipher")
        } else if self.checksum != other.checksum {
            Some("the kind of checksum")
        } else if self.image_id != other.image_id {
            Some("the image id")
        } else {
            None
        }
    }
}

/// Whether a writer had reason to begin another chunk after this one.
fn is_full(header: &Header) -> bool {
    let (region, relocation, room) = match header.version {
        Version::V5 => (16, 24, 4096 - 72),
        _ => (8, 16, REGION_ROOM),
    };
    // A next region may have been kept out by a relocation in it.
    let table = region * (header.regions.len() + 1) + relocation * (header.relocations.len() + 1);
    header.data_size > DATA_SIZE - FULL_MARGIN || table > room
}
