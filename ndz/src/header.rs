//! The header of a chunk: parsing and all checks that need nothing but the header (docs/NDZ.md, Header).

use chunkfmt::relocation::{self, Relocation, SHORT_SECTOR};

use crate::layout::{Layout, MAGIC, array, u32_at};
use crate::{CHUNK_SIZE, DATA_SIZE, Error, HEADER_SIZE, ImageId, SECTOR_SIZE, Version};

/// No zlib stream of 1 MiB gives more: deflate needs at least a bit per 129 bytes of output.
const SECTORS_MAX: u64 = (DATA_SIZE * 1032 / SECTOR_SIZE) as u64;

/// A run of sectors that the chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// First sector, counted from the start of the imaged disk or partition.
    pub first: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Region {
    /// The first sector behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.sectors)
    }
}

/// The sectors that a chunk accounts for. Those that are in no region are free, or unchanged in a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First sector.
    pub first: u64,
    /// The first sector behind it.
    pub end: u64,
}

/// How a chunk's data are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// Not at all.
    None,
    /// Blowfish in CBC mode with a key of 32 bytes.
    BlowfishCbc,
}

/// How a chunk is protected against changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Not at all.
    None,
    /// SHA-1, which anybody can compute.
    Sha1,
    /// SHA-1 signed with RSA of 512 bits.
    SignedSha1,
}

/// The checked header of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version.
    pub version: Version,
    /// Bytes used in the data area, as they are stored.
    pub data_size: usize,
    /// Position of the chunk in the image, from 0.
    pub index: u32,
    /// Number of chunks of the image, if it says so (only version 1 does).
    pub chunks: Option<u32>,
    /// What the chunk accounts for. `None` in version 1: see [`crate::Set::add`].
    pub span: Option<Span>,
    /// What the chunk holds: at least one region, ascending, without overlap.
    pub regions: Vec<Region>,
    /// Bytes that depend on where the partition is.
    pub relocations: Vec<Relocation>,
    /// Encryption of the data.
    pub cipher: Cipher,
    /// Protection of header and data.
    pub checksum: Checksum,
    /// Name of the image. `None` if the version has none or the field is zero in version 5.
    pub image_id: Option<ImageId>,
}

impl Header {
    /// Reads and checks the header of the chunk at position `index`.
    pub(crate) fn parse(index: u32, area: &[u8; HEADER_SIZE]) -> Result<Self, Error> {
        let version = version(index, area)?;
        let mut first_fault = None;
        for layout in Layout::of(version) {
            match Self::parse_as(index, area, version, layout) {
                Ok(header) => return Ok(header),
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        Err(first_fault.unwrap_or(Error::Magic {
            chunk: index,
            magic: version.magic(),
        }))
    }

    fn parse_as(
        chunk: u32,
        area: &[u8; HEADER_SIZE],
        version: Version,
        layout: &Layout,
    ) -> Result<Self, Error> {
        let bad = |field, found: u32, rule| Error::Field {
            chunk,
            field,
            found: found.into(),
            rule,
        };
        let size = u32_at(area, 4);
        let index = u32_at(area, 8);
        let total = u32_at(area, 12);
        let region_size = u32_at(area, 16);
        let region_count = u32_at(area, 20);
        if region_size as usize != HEADER_SIZE {
            return Err(bad("regionsize", region_size, "not 4096"));
        }
        let data_size = size as usize;
        if data_size == 0 || data_size > DATA_SIZE {
            return Err(bad("size", size, "not between 1 and 1044480"));
        }
        if index != chunk {
            return Err(bad(
                "blockindex",
                index,
                "not the chunk's position in the image",
            ));
        }
        if total != 0 && (total <= index || i32::try_from(total).is_err()) {
            return Err(bad("blocktotal", total, "not above the chunk's position"));
        }
        let region_max = (HEADER_SIZE - layout.header) / layout.region;
        let regions_len = region_count as usize;
        if regions_len == 0 || regions_len > region_max {
            return Err(bad(
                "regioncount",
                region_count,
                "not between 1 and what fits into the header",
            ));
        }
        let relocation_count = if layout.relocation == 0 {
            0
        } else {
            u32_at(area, 32)
        };
        let relocations_len = relocation_count as usize;
        if relocations_len > 0
            && relocations_len > (HEADER_SIZE - layout.size(regions_len, 0)) / layout.relocation
        {
            return Err(bad(
                "reloccount",
                relocation_count,
                "more than fits into the header",
            ));
        }
        let span = layout
            .span
            .map(|at| layout.pair(area, at))
            .map(|(first, end)| Span { first, end });
        let regions = regions(chunk, area, layout, regions_len, span)?;
        let relocations = relocations(chunk, area, layout, &regions, relocations_len)?;
        let (cipher, checksum) = protection(chunk, area, version)?;
        let image_id = layout.image_id.map(|at| ImageId(array(area, at)));
        Ok(Self {
            version,
            data_size,
            index,
            chunks: (total != 0).then_some(total),
            span,
            regions,
            relocations,
            cipher,
            checksum,
            image_id: image_id.filter(|id| version != Version::V5 || id.0 != [0; 16]),
        })
    }

    /// Sectors in all regions.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.regions.iter().map(|region| region.sectors).sum()
    }

    /// The first sector behind the last region.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(0, Region::end)
    }

    /// Whether the chunk ends the image with a sector that is not full.
    #[must_use]
    pub fn has_short_sector(&self) -> bool {
        self.relocations
            .iter()
            .any(|relocation| relocation.kind == SHORT_SECTOR)
    }
}

/// Whether a file that begins with these bytes, at least 4, is meant as an Emulab image, of any version and byte order.
#[must_use]
pub fn is_image(bytes: &[u8]) -> bool {
    let Some(&magic) = bytes.first_chunk() else {
        return false;
    };
    [u32::from_le_bytes(magic), u32::from_be_bytes(magic)]
        .iter()
        .any(|magic| magic.wrapping_sub(MAGIC) <= 5)
}

fn version(chunk: u32, area: &[u8; HEADER_SIZE]) -> Result<Version, Error> {
    let magic = u32_at(area, 0);
    // The magic of version 1 reads the same from both ends, `regionsize` does not.
    if u32_at(area, 16).swap_bytes() as usize == HEADER_SIZE
        && magic.swap_bytes().wrapping_sub(MAGIC) <= 5
    {
        return Err(Error::BigEndian { chunk });
    }
    match magic.wrapping_sub(MAGIC) {
        0 => Ok(Version::V1),
        1 => Ok(Version::V2),
        2 => Ok(Version::V3),
        3 => Ok(Version::V4),
        4 => Ok(Version::V5),
        5 => Err(Error::Version6 { chunk }),
        _ if (1..=5).contains(&magic.swap_bytes().wrapping_sub(MAGIC)) => {
            Err(Error::BigEndian { chunk })
        }
        _ => Err(Error::Magic { chunk, magic }),
    }
}

fn regions(
    chunk: u32,
    area: &[u8; HEADER_SIZE],
    layout: &Layout,
    count: usize,
    span: Option<Span>,
) -> Result<Vec<Region>, Error> {
    let mut regions = Vec::with_capacity(count);
    let mut free_from = span.map_or(0, |span| span.first);
    let mut total = 0_u64;
    for index in 0..count {
        let bad = |fault| Error::Region {
            chunk,
            region: index,
            fault,
        };
        let (first, sectors) = layout.region(area, index);
        let end = first
            .checked_add(sectors)
            .ok_or_else(|| bad("ends beyond the last possible sector"))?;
        if sectors == 0 {
            return Err(bad("is empty"));
        }
        if first < free_from {
            return Err(bad(
                "begins before the chunk's span, or before the end of the region before",
            ));
        }
        if span.is_some_and(|span| end > span.end) {
            return Err(bad("ends behind the chunk's span"));
        }
        if end > u64::MAX / SECTOR_SIZE as u64 {
            return Err(bad("ends beyond the last possible byte"));
        }
        total = total.saturating_add(sectors);
        if total > SECTORS_MAX {
            return Err(bad("and those before it hold more than a chunk can"));
        }
        free_from = end;
        regions.push(Region { first, sectors });
    }
    if span.is_some_and(|span| span.end > u64::MAX / SECTOR_SIZE as u64) {
        return Err(Error::Region {
            chunk,
            region: count,
            fault: "that follows would end beyond the last possible byte",
        });
    }
    Ok(regions)
}

fn relocations(
    chunk: u32,
    area: &[u8; HEADER_SIZE],
    layout: &Layout,
    regions: &[Region],
    count: usize,
) -> Result<Vec<Relocation>, Error> {
    let relocations: Vec<_> = (0..count)
        .map(|index| layout.relocation(area, regions.len(), index))
        .collect();
    let pairs: Vec<_> = regions
        .iter()
        .map(|region| (region.first, region.sectors))
        .collect();
    relocation::check(&relocations, &pairs).map_err(|fault| Error::Relocation { chunk, fault })?;
    Ok(relocations)
}

/// Places of the fields that only version 4 has.
pub(crate) mod v4 {
    pub(crate) const CIPHER: usize = 36;
    pub(crate) const CHECKSUM_TYPE: usize = 38;
    pub(crate) const IV: usize = 40;
    pub(crate) const CHECKSUM: usize = 72;
    pub(crate) const CHECKSUM_SIZE: usize = 256;
}

fn protection(
    chunk: u32,
    area: &[u8; HEADER_SIZE],
    version: Version,
) -> Result<(Cipher, Checksum), Error> {
    if version != Version::V4 {
        return Ok((Cipher::None, Checksum::None));
    }
    let cipher = u16::from_le_bytes(array(area, v4::CIPHER));
    let kind = u16::from_le_bytes(array(area, v4::CHECKSUM_TYPE));
    let cipher = match cipher {
        0 => Cipher::None,
        1 => Cipher::BlowfishCbc,
        found => {
            return Err(Error::Field {
                chunk,
                field: "enc_cipher",
                found: found.into(),
                rule: "not a known cipher",
            });
        }
    };
    let checksum = match kind {
        0 => Checksum::None,
        1 => Checksum::Sha1,
        0x8001 => Checksum::SignedSha1,
        found => {
            return Err(Error::Field {
                chunk,
                field: "csum_type",
                found: found.into(),
                rule: "not a known checksum",
            });
        }
    };
    Ok((cipher, checksum))
}

/// The header area of a chunk of the right length.
pub(crate) fn area(chunk: u32, bytes: &[u8]) -> Result<&[u8; HEADER_SIZE], Error> {
    if bytes.len() != CHUNK_SIZE {
        return Err(Error::Truncated {
            chunk,
            bytes: bytes.len(),
        });
    }
    bytes.first_chunk().ok_or(Error::Truncated {
        chunk,
        bytes: bytes.len(),
    })
}
