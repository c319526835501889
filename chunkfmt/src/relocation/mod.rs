//! Relocations: bytes of an image that depend on where the partition sits, and how they are put right on the target.
//!
//! A relocated image holds such bytes as if the partition began at sector 0. An entry is 24 bytes, little-endian, the
//! layout of Emulab images of version 5: kind u32, byte offset in the sector u32, sector u64, size in bytes u64. What
//! the kinds mean is in `docs/NDZ.md`. All functions work on single sectors of 512 bytes, so it does not matter how a
//! chunk is cut into writes.

mod label;
mod lilo;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use label::LABEL_HEAD;
use lilo::{LILO_ADDRESS_SIZE, LILO_TABLE_DISTANCE, LILO_TABLE_SIZE};

/// Bytes of a sector.
pub const SECTOR_SIZE: usize = 512;

/// Does nothing.
pub const NONE: u32 = 0;
/// A FreeBSD or NetBSD disklabel with partition offsets.
pub const FREEBSD_LABEL: u32 = 1;
/// An OpenBSD disklabel: as [`FREEBSD_LABEL`], but entries 2 and 8 to 15 are absolute already.
pub const OPENBSD_LABEL: u32 = 2;
/// One LILO sector address, 5 bytes.
pub const LILO_ADDRESS: u32 = 3;
/// A sector of up to 102 LILO sector addresses.
pub const LILO_MAP: u32 = 4;
/// The checksum of LILO's descriptor table. The entry points 990 bytes behind the start of the table.
pub const LILO_CHECKSUM: u32 = 5;
/// The last sector of the image, of which only the first `size` bytes are data.
pub const SHORT_SECTOR: u32 = 6;
/// Reserved, without an action.
pub const GPT_FIX: u32 = 7;
/// Sectors that could not be read when the image was made; zeros stand for them. Not of Emulab's: kinds from 256 on
/// are this format's own.
pub const UNREADABLE: u32 = 256;

/// One entry: some bytes at a place, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// What is there: one of this module's constants. Unknown kinds are kept and have no effect.
    pub kind: u32,
    /// First byte in the sector.
    pub offset: u32,
    /// The sector, counted as the image's regions are.
    pub sector: u64,
    /// Number of bytes.
    pub size: u64,
}

/// Where the partition is on the target disk that the image is restored into, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// First sector of the partition on its disk.
    pub first_sector: u64,
    /// Sectors of the partition.
    pub sectors: u64,
}

/// What cannot be relocated, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelocationError {
    /// An entry has a size or offset that its kind cannot have.
    #[error(
        "a relocation of kind {kind} at sector {sector} has an impossible offset or size: the image is damaged"
    )]
    Malformed {
        /// The entry's kind.
        kind: u32,
        /// The entry's sector.
        sector: u64,
    },
    /// An entry is about bytes that are not in its chunk.
    #[error(
        "a relocation of kind {kind} at sector {sector} is outside of the chunk's data: the image is damaged"
    )]
    Outside {
        /// The entry's kind.
        kind: u32,
        /// The entry's sector.
        sector: u64,
    },
    /// There is no disklabel where one should be.
    #[error(
        "there is no valid BSD disklabel in sector {sector}, where a relocation says so: the image is damaged"
    )]
    NotALabel {
        /// The entry's sector.
        sector: u64,
    },
    /// The partition lies too far on the disk for the field that has to name a sector of it.
    #[error(
        "the boot data in sector {sector} cannot name a place as far on the disk as this partition: \
         restore into a partition nearer to the disk's start, or without relocation"
    )]
    TooFar {
        /// The entry's sector.
        sector: u64,
    },
}

/// Access to the sectors of a chunk while they are relocated.
pub trait Sectors {
    /// The bytes of `sector`, or `None` if the chunk does not hold it.
    fn sector_mut(&mut self, sector: u64) -> Option<&mut [u8; SECTOR_SIZE]>;
}

impl Sectors for BTreeMap<u64, [u8; SECTOR_SIZE]> {
    fn sector_mut(&mut self, sector: u64) -> Option<&mut [u8; SECTOR_SIZE]> {
        self.get_mut(&sector)
    }
}

impl Relocation {
    /// Bytes of an entry.
    pub const SIZE: usize = 24;

    /// Reads an entry. Every value is accepted; see [`check`].
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let [k0, k1, k2, k3, o0, o1, o2, o3, rest @ ..] = *bytes;
        let [
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
        ] = rest;
        Self {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            offset: u32::from_le_bytes([o0, o1, o2, o3]),
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            size: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
        }
    }

    /// The entry's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = (self.kind.to_le_bytes().into_iter())
            .chain(self.offset.to_le_bytes())
            .chain(self.sector.to_le_bytes())
            .chain(self.size.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    /// The sectors that relocating reads or changes, as first sector and one behind the last. `None` if the kind has no
    /// effect on data.
    ///
    /// # Errors
    /// [`RelocationError::Malformed`] if offset and size are impossible for the kind.
    pub fn sectors(&self) -> Result<Option<(u64, u64)>, RelocationError> {
        let malformed = RelocationError::Malformed {
            kind: self.kind,
            sector: self.sector,
        };
        let size = match self.kind {
            FREEBSD_LABEL | OPENBSD_LABEL => {
                if self.size < LABEL_HEAD as u64 {
                    return Err(malformed);
                }
                // The label is read as a whole sector's rest, whatever the entry's size says of its entries.
                (SECTOR_SIZE as u64)
                    .checked_sub(u64::from(self.offset))
                    .ok_or(malformed)?
                    .max(self.size)
            }
            LILO_ADDRESS if self.size == LILO_ADDRESS_SIZE as u64 => self.size,
            LILO_MAP if self.size == SECTOR_SIZE as u64 && self.offset == 0 => self.size,
            LILO_CHECKSUM if self.size == 2 => self.size,
            SHORT_SECTOR if (1..SECTOR_SIZE as u64).contains(&self.size) && self.offset == 0 => {
                self.size
            }
            LILO_ADDRESS | LILO_MAP | LILO_CHECKSUM | SHORT_SECTOR => return Err(malformed),
            _ => return Ok(None),
        };
        if self.offset as usize >= SECTOR_SIZE {
            return Err(malformed);
        }
        let at = self.byte().ok_or(malformed)?;
        let (from, size) = match self.kind {
            LILO_CHECKSUM => (
                at.checked_sub(LILO_TABLE_DISTANCE).ok_or(malformed)?,
                LILO_TABLE_SIZE as u64,
            ),
            _ => (at, size),
        };
        let end = from.checked_add(size).ok_or(malformed)?;
        if matches!(self.kind, FREEBSD_LABEL | OPENBSD_LABEL)
            && size > SECTOR_SIZE as u64 - u64::from(self.offset)
        {
            return Err(malformed);
        }
        Ok(Some((
            from / SECTOR_SIZE as u64,
            end.div_ceil(SECTOR_SIZE as u64),
        )))
    }

    /// Distance of the entry's first byte from the image's first.
    fn byte(&self) -> Option<u64> {
        self.sector
            .checked_mul(SECTOR_SIZE as u64)?
            .checked_add(u64::from(self.offset))
    }
}

/// Checks that everything that `relocations` read or change is in the chunk's `regions`, given as ascending pairs of
/// first sector and number of sectors, and that a short sector is the last one.
///
/// # Errors
/// [`RelocationError::Malformed`] or [`RelocationError::Outside`] for the first bad entry.
pub fn check(relocations: &[Relocation], regions: &[(u64, u64)]) -> Result<(), RelocationError> {
    for relocation in relocations {
        let Some((first, end)) = relocation.sectors()? else {
            continue;
        };
        let outside = RelocationError::Outside {
            kind: relocation.kind,
            sector: relocation.sector,
        };
        // Regions may touch: what is needed has to be covered by one after the other.
        let mut at = first;
        let behind_first = regions
            .partition_point(|&(start, _)| start <= first)
            .saturating_sub(1);
        for &(start, sectors) in regions.iter().skip(behind_first) {
            if start <= at && at < start.saturating_add(sectors) {
                at = start.saturating_add(sectors);
            }
            if at >= end || start > at {
                break;
            }
        }
        let last = regions
            .last()
            .map_or(0, |&(start, sectors)| start.saturating_add(sectors));
        if at < end || (relocation.kind == SHORT_SECTOR && end != last) {
            return Err(outside);
        }
    }
    Ok(())
}

/// What [`apply`] leaves to the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Length of the image in bytes, if its last sector is a short one. The output has to be cut there.
    pub final_length: Option<u64>,
    /// Kinds that are not known here and were left alone.
    pub unknown: Vec<u32>,
}

/// Relocates the data of a chunk. `partition` is where the image goes on its disk; `None` if it is a whole disk. Call
/// [`check`] first; what a failed call has changed is not defined.
///
/// LILO's checksums come last, since they cover what other entries change.
///
/// # Errors
/// [`RelocationError`] if a sector is missing, the data are not what the entry says, or an address does not fit.
pub fn apply(
    relocations: &[Relocation],
    partition: Option<PartitionPlace>,
    sectors: &mut impl Sectors,
) -> Result<Applied, RelocationError> {
    let start = partition.map_or(0, |place| place.first_sector);
    let mut applied = Applied::default();
    for relocation in relocations {
        relocation.sectors()?;
        match relocation.kind {
            FREEBSD_LABEL | OPENBSD_LABEL => {
                if let Some(place) = partition {
                    label::relocate(relocation, place, sectors)?;
                }
            }
            LILO_ADDRESS => lilo::relocate_address(relocation, start, sectors)?,
            LILO_MAP => lilo::relocate_map(relocation, start, sectors)?,
            SHORT_SECTOR => {
                applied.final_length = relocation
                    .byte()
                    .and_then(|at| at.checked_add(relocation.size));
            }
            NONE | GPT_FIX | LILO_CHECKSUM | UNREADABLE => {}
            unknown => applied.unknown.push(unknown),
        }
    }
    for relocation in relocations
        .iter()
        .filter(|relocation| relocation.kind == LILO_CHECKSUM)
    {
        lilo::set_checksum(relocation, sectors)?;
    }
    Ok(applied)
}

fn outside(relocation: &Relocation) -> RelocationError {
    RelocationError::Outside {
        kind: relocation.kind,
        sector: relocation.sector,
    }
}

/// Copies bytes out of as many sectors as they lie in.
fn get(
    relocation: &Relocation,
    at: u64,
    bytes: &mut [u8],
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    for (byte, position) in bytes.iter_mut().zip(at..) {
        let sector = sectors
            .sector_mut(position / SECTOR_SIZE as u64)
            .ok_or_else(|| outside(relocation))?;
        *byte = sector[in_sector(position)];
    }
    Ok(())
}

fn put(
    relocation: &Relocation,
    at: u64,
    bytes: &[u8],
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    for (byte, position) in bytes.iter().zip(at..) {
        let sector = sectors
            .sector_mut(position / SECTOR_SIZE as u64)
            .ok_or_else(|| outside(relocation))?;
        sector[in_sector(position)] = *byte;
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "below 512")]
fn in_sector(position: u64) -> usize {
    (position % SECTOR_SIZE as u64) as usize
}

/// XOR of all 16-bit words.
fn xor_words(bytes: &[u8], seed: u16) -> u16 {
    bytes
        .as_chunks::<2>()
        .0
        .iter()
        .fold(seed, |sum, &word| sum ^ u16::from_le_bytes(word))
}
