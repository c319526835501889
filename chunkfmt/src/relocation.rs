//! Relocations: bytes of an image that depend on where the partition sits, and how they are put right on the target.
//!
//! A relocated image holds such bytes as if the partition began at sector 0. An entry is 24 bytes, little-endian, the
//! layout of Emulab images of version 5: kind u32, byte offset in the sector u32, sector u64, size in bytes u64. What
//! the kinds mean is in `docs/NDZ.md`. All functions work on single sectors of 512 bytes, so it does not matter how a
//! chunk is cut into writes.

use std::collections::BTreeMap;

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

const LABEL_MAGIC: u32 = 0x8256_4557;
/// Bytes of a BSD disklabel before its partition entries.
const LABEL_HEAD: usize = 148;
const LABEL_ENTRY: usize = 16;
/// Most entries that fit into one sector behind the label's head.
const LABEL_ENTRIES_MAX: u16 = 22;
const LILO_ADDRESS_SIZE: usize = 5;
const LILO_MAP_ENTRIES: usize = 102;
const LILO_TABLE_SIZE: usize = 1024;
/// How far behind the start of the descriptor table a [`LILO_CHECKSUM`] entry points.
const LILO_TABLE_DISTANCE: u64 = 990;
const LILO_CHECKSUM_SEED: u16 = 0xABCD;

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
                    disklabel(relocation, place, sectors)?;
                }
            }
            LILO_ADDRESS => {
                let mut address = [0; LILO_ADDRESS_SIZE];
                let at = relocation.byte().unwrap_or_default();
                get(relocation, at, &mut address, sectors)?;
                move_address(relocation, &mut address, start)?;
                put(relocation, at, &address, sectors)?;
            }
            LILO_MAP => {
                let sector = sectors
                    .sector_mut(relocation.sector)
                    .ok_or_else(|| outside(relocation))?;
                for address in sector
                    .as_chunks_mut::<LILO_ADDRESS_SIZE>()
                    .0
                    .iter_mut()
                    .take(LILO_MAP_ENTRIES)
                {
                    if !move_address(relocation, address, start)? {
                        break;
                    }
                }
            }
            SHORT_SECTOR => {
                applied.final_length = relocation
                    .byte()
                    .and_then(|at| at.checked_add(relocation.size));
            }
            NONE | GPT_FIX | LILO_CHECKSUM => {}
            unknown => applied.unknown.push(unknown),
        }
    }
    for relocation in relocations
        .iter()
        .filter(|relocation| relocation.kind == LILO_CHECKSUM)
    {
        lilo_checksum(relocation, sectors)?;
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

/// Adds the partition's start to the offsets of a BSD disklabel, cuts what does not fit into the partition, and lets
/// entry 2, the whole slice, be as large as the partition (docs/NDZ.md, Relocations).
fn disklabel(
    relocation: &Relocation,
    place: PartitionPlace,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let bad = RelocationError::NotALabel {
        sector: relocation.sector,
    };
    let far = RelocationError::TooFar {
        sector: relocation.sector,
    };
    let sector = sectors
        .sector_mut(relocation.sector)
        .ok_or_else(|| outside(relocation))?;
    let label = sector.get_mut(relocation.offset as usize..).ok_or(bad)?;
    let magic = LABEL_MAGIC.to_le_bytes();
    if label.get(..4) != Some(&magic) || label.get(132..136) != Some(&magic) {
        return Err(bad);
    }
    let entries = match label.get(138..140) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => return Err(bad),
    };
    if entries > LABEL_ENTRIES_MAX {
        return Err(bad);
    }
    let label = label
        .get_mut(..LABEL_HEAD + LABEL_ENTRY * usize::from(entries))
        .ok_or(bad)?;
    let (head, table) = label.split_at_mut(LABEL_HEAD);
    let end = place.first_sector.checked_add(place.sectors).ok_or(far)?;
    for (index, entry) in table
        .as_chunks_mut::<LABEL_ENTRY>()
        .0
        .iter_mut()
        .enumerate()
    {
        let [s0, s1, s2, s3, o0, o1, o2, o3, ..] = *entry;
        let size = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        let offset = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
        let absolute = relocation.kind == OPENBSD_LABEL && (index == 2 || (8..16).contains(&index));
        if size == 0 || absolute {
            continue;
        }
        let offset = offset.checked_add(place.first_sector).ok_or(far)?;
        let size = if offset.checked_add(size).ok_or(far)? > end {
            end.saturating_sub(offset)
        } else if index == 2 {
            place.sectors
        } else {
            size
        };
        let size = u32::try_from(size).map_err(|_| far)?;
        let offset = u32::try_from(offset).map_err(|_| far)?;
        for (to, from) in entry
            .iter_mut()
            .zip(size.to_le_bytes().into_iter().chain(offset.to_le_bytes()))
        {
            *to = from;
        }
    }
    head[136..138].fill(0);
    let sum = xor_words(table, xor_words(head, 0));
    head[136..138].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// Adds `start` to a LILO address and keeps its form. False if it is none: all zero, or not a linear one.
fn move_address(
    relocation: &Relocation,
    address: &mut [u8; LILO_ADDRESS_SIZE],
    start: u64,
) -> Result<bool, RelocationError> {
    const LINEAR: u8 = 0x40;
    const LBA32_NO_COUNT: u8 = 0x10;
    const NOT_CHS: u8 = 0x70;
    let far = RelocationError::TooFar {
        sector: relocation.sector,
    };
    let [low, middle, flags, high, top] = *address;
    if flags & NOT_CHS == 0 {
        return Ok(false);
    }
    let wide = flags & LINEAR == 0 && flags & LBA32_NO_COUNT != 0;
    let sector = u32::from_le_bytes([low, middle, high, if wide { top } else { 0 }]);
    let moved = u64::from(sector)
        .checked_add(start)
        .and_then(|moved| u32::try_from(moved).ok())
        .ok_or(far)?;
    let [low, middle, high, new_top] = moved.to_le_bytes();
    if !wide && new_top != 0 {
        return Err(far);
    }
    *address = [low, middle, flags, high, if wide { new_top } else { top }];
    Ok(true)
}

/// Computes the checksum of LILO's descriptor table anew.
fn lilo_checksum(
    relocation: &Relocation,
    sectors: &mut impl Sectors,
) -> Result<(), RelocationError> {
    let table_at = relocation
        .byte()
        .and_then(|at| at.checked_sub(LILO_TABLE_DISTANCE))
        .unwrap_or_default();
    let mut table = [0; LILO_TABLE_SIZE];
    get(relocation, table_at, &mut table, sectors)?;
    table[..2].fill(0);
    let sum = xor_words(&table, LILO_CHECKSUM_SEED);
    put(relocation, table_at, &sum.to_le_bytes(), sectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: PartitionPlace = PartitionPlace {
        first_sector: 1000,
        sectors: 5000,
    };

    fn entry(kind: u32, sector: u64, offset: u32, size: u64) -> Relocation {
        Relocation {
            kind,
            offset,
            sector,
            size,
        }
    }

    fn one(sector: u64, bytes: &[u8]) -> BTreeMap<u64, [u8; SECTOR_SIZE]> {
        let mut data = [0; SECTOR_SIZE];
        data[..bytes.len()].copy_from_slice(bytes);
        BTreeMap::from([(sector, data)])
    }

    /// A label with the given entries (size, offset), checksum not set.
    fn label(entries: &[(u32, u32)]) -> Vec<u8> {
        let mut label = vec![0; LABEL_HEAD];
        label[..4].copy_from_slice(&[0x57, 0x45, 0x56, 0x82]);
        label[132..136].copy_from_slice(&[0x57, 0x45, 0x56, 0x82]);
        label[138..140].copy_from_slice(&u16::try_from(entries.len()).unwrap().to_le_bytes());
        for (size, offset) in entries {
            label.extend(size.to_le_bytes());
            label.extend(offset.to_le_bytes());
            label.extend([0; 8]);
        }
        label
    }

    fn label_entries(sector: &[u8; SECTOR_SIZE], count: usize) -> Vec<(u32, u32)> {
        let word = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap());
        (0..count)
            .map(|i| (word(148 + 16 * i), word(152 + 16 * i)))
            .collect()
    }

    #[test]
    fn an_entry_has_the_documented_layout() {
        let bytes: [u8; 24] = [
            5, 0, 0, 0, 7, 1, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        ];
        let parsed = Relocation::parse(&bytes);
        assert_eq!(parsed, entry(5, 0x1_0000_0009, 0x107, 2));
        assert_eq!(parsed.to_bytes(), bytes);
    }

    #[test]
    fn a_label_is_moved_and_cut_to_the_partition() {
        let entries = [(3000, 0), (9000, 3000), (7000, 0), (0, 17), (10, 6000)];
        let mut sectors = one(1, &label(&entries));
        apply(
            &[entry(FREEBSD_LABEL, 1, 0, 276)],
            Some(PLACE),
            &mut sectors,
        )
        .unwrap();
        let sector = sectors[&1];
        assert_eq!(
            label_entries(&sector, 5),
            [(3000, 1000), (2000, 4000), (5000, 1000), (0, 17), (0, 7000)]
        );
        assert_eq!(
            xor_words(&sector[..148 + 80], 0),
            0,
            "the words of a label with its checksum give zero"
        );
    }

    #[test]
    fn the_whole_slice_entry_grows_with_the_partition() {
        let mut sectors = one(1, &label(&[(1, 0), (0, 0), (4000, 0)]));
        apply(
            &[entry(FREEBSD_LABEL, 1, 0, 276)],
            Some(PLACE),
            &mut sectors,
        )
        .unwrap();
        assert_eq!(
            label_entries(&sectors[&1], 3),
            [(1, 1000), (0, 0), (5000, 1000)]
        );
    }

    #[test]
    fn absolute_entries_of_an_openbsd_label_stay() {
        let mut sectors = one(1, &label(&[(10, 5); 16]));
        apply(
            &[entry(OPENBSD_LABEL, 1, 0, 276)],
            Some(PLACE),
            &mut sectors,
        )
        .unwrap();
        for (index, found) in label_entries(&sectors[&1], 16).into_iter().enumerate() {
            let stays = index == 2 || index >= 8;
            assert_eq!(
                found,
                if stays { (10, 5) } else { (10, 1005) },
                "entry {index}"
            );
        }
    }

    #[test]
    fn a_label_stays_as_it_is_on_a_whole_disk() {
        let before = one(1, &label(&[(10, 5)]));
        let mut after = before.clone();
        apply(&[entry(FREEBSD_LABEL, 1, 0, 276)], None, &mut after).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn what_is_no_label_is_refused() {
        let relocation = [entry(FREEBSD_LABEL, 1, 0, 276)];
        let bad = Err(RelocationError::NotALabel { sector: 1 });
        let mut second_magic = label(&[(10, 5)]);
        second_magic[132] ^= 1;
        assert_eq!(
            apply(&relocation, Some(PLACE), &mut one(1, &second_magic)),
            bad
        );
        let mut entries = label(&[(10, 5)]);
        entries[138..140].copy_from_slice(&[23, 0]);
        assert_eq!(apply(&relocation, Some(PLACE), &mut one(1, &entries)), bad);
        let far = PartitionPlace {
            first_sector: 1 << 32,
            sectors: 10,
        };
        let answer = apply(&relocation, Some(far), &mut one(1, &label(&[(10, 5)])));
        assert_eq!(answer, Err(RelocationError::TooFar { sector: 1 }));
    }

    #[test]
    fn lilo_addresses_keep_their_form() {
        let moved = |address: [u8; 5], start: u64| {
            let place = PartitionPlace {
                first_sector: start,
                sectors: 1 << 20,
            };
            let mut sectors = one(7, &address);
            apply(&[entry(LILO_ADDRESS, 7, 0, 5)], Some(place), &mut sectors)
                .map(|_| sectors[&7][..5].to_vec())
        };
        let far = Err(RelocationError::TooFar { sector: 7 });
        // Linear: 24 bits, the last byte is a count.
        assert_eq!(
            moved([0x10, 0, 0xC0, 0, 3], 0x2_0100).unwrap(),
            [0x10, 1, 0xC0, 2, 3]
        );
        // LBA32 with a count: 24 bits too.
        assert_eq!(
            moved([0xFF, 0xFF, 0xA0, 0, 3], 1).unwrap(),
            [0, 0, 0xA0, 1, 3]
        );
        assert_eq!(moved([0xFF, 0xFF, 0xA0, 0xFF, 3], 1), far);
        // LBA32 without a count: 32 bits.
        assert_eq!(
            moved([0xFF, 0xFF, 0xB0, 0xFF, 3], 1).unwrap(),
            [0, 0, 0xB0, 0, 4]
        );
        assert_eq!(moved([0xFF, 0xFF, 0xB0, 0xFF, 0xFF], 1), far);
        // CHS and none stay.
        assert_eq!(moved([1, 2, 0x80, 3, 4], 99).unwrap(), [1, 2, 0x80, 3, 4]);
        assert_eq!(moved([0; 5], 99).unwrap(), [0; 5]);
    }

    #[test]
    fn an_address_over_two_sectors_is_moved() {
        let mut sectors = one(0, &[0; 512]);
        sectors.get_mut(&0).unwrap()[511] = 0x01;
        sectors.insert(1, [0; 512]);
        sectors.get_mut(&1).unwrap()[1] = 0x40;
        apply(&[entry(LILO_ADDRESS, 0, 511, 5)], Some(PLACE), &mut sectors).unwrap();
        assert_eq!(
            (sectors[&0][511], sectors[&1][0]),
            (0xE9, 0x03),
            "1 + 1000 = 0x3E9"
        );
    }

    #[test]
    fn a_map_ends_with_the_first_empty_address() {
        let mut map = Vec::new();
        for address in [
            [1, 0, 0x40, 0, 1],
            [2, 0, 0x40, 0, 1],
            [0; 5],
            [3, 0, 0x40, 0, 1],
        ] {
            map.extend(address);
        }
        let place = PartitionPlace {
            first_sector: 16,
            sectors: 1,
        };
        let mut sectors = one(3, &map);
        apply(&[entry(LILO_MAP, 3, 0, 512)], Some(place), &mut sectors).unwrap();
        assert_eq!([0, 5, 10, 15].map(|at| sectors[&3][at]), [17, 18, 0, 3]);
    }

    #[test]
    fn a_short_sector_gives_the_length_and_unknown_kinds_are_named() {
        let entries = [
            entry(SHORT_SECTOR, 242, 0, 419),
            entry(100, 3, 0, 0),
            entry(GPT_FIX, 1, 0, 512),
        ];
        let applied = apply(&entries, None, &mut BTreeMap::new()).unwrap();
        assert_eq!(
            applied,
            Applied {
                final_length: Some(124_323),
                unknown: vec![100]
            }
        );
    }

    #[test]
    fn entries_outside_of_the_regions_are_refused() {
        let regions = [(10, 5), (15, 5), (30, 1)];
        let good = [
            entry(LILO_MAP, 10, 0, 512),
            entry(LILO_ADDRESS, 14, 511, 5),
            entry(LILO_CHECKSUM, 16, 478, 2),
            entry(SHORT_SECTOR, 30, 0, 1),
            entry(100, 5, 9999, 7),
        ];
        check(&good, &regions).unwrap();
        let bad = [
            entry(LILO_MAP, 9, 0, 512),
            entry(LILO_MAP, 20, 0, 512),
            entry(LILO_ADDRESS, 19, 510, 5),
            entry(LILO_CHECKSUM, 11, 100, 2),
            entry(LILO_CHECKSUM, 19, 479, 2),
            entry(SHORT_SECTOR, 19, 0, 1),
        ];
        for relocation in bad {
            let answer = check(&[relocation], &regions);
            assert!(
                matches!(answer, Err(RelocationError::Outside { .. })),
                "{relocation:?}: {answer:?}"
            );
        }
        assert!(check(&[entry(LILO_MAP, 10, 0, 512)], &[]).is_err());
    }

    #[test]
    fn impossible_sizes_and_offsets_are_refused() {
        let bad = [
            entry(FREEBSD_LABEL, 1, 0, 100),
            entry(FREEBSD_LABEL, 1, 300, 276),
            entry(FREEBSD_LABEL, 1, 513, 276),
            entry(LILO_ADDRESS, 1, 0, 4),
            entry(LILO_ADDRESS, 1, 512, 5),
            entry(LILO_MAP, 1, 1, 512),
            entry(LILO_MAP, 1, 0, 511),
            entry(LILO_CHECKSUM, 1, 477, 2),
            entry(SHORT_SECTOR, 1, 0, 0),
            entry(SHORT_SECTOR, 1, 0, 512),
            entry(SHORT_SECTOR, 1, 1, 5),
            entry(LILO_ADDRESS, u64::MAX / 512 + 1, 0, 5),
            entry(LILO_ADDRESS, u64::MAX / 512, 511, 5),
        ];
        for relocation in bad {
            let answer = check(&[relocation], &[(0, u64::MAX)]);
            assert!(
                matches!(answer, Err(RelocationError::Malformed { .. })),
                "{relocation:?}: {answer:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_and_writing_are_inverse(bytes: [u8; 24]) {
            prop_assert_eq!(Relocation::parse(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn no_entry_makes_it_panic(
            kind in 0_u32..9, offset in prop_oneof![0_u32..600, any::<u32>()],
            sector in prop_oneof![0_u64..6, any::<u64>()], size in prop_oneof![0_u64..600, any::<u64>()],
            content: [u8; 16], first: u64, length: u64,
        ) {
            let relocation = [entry(kind, sector, offset, size)];
            let regions = [(0, 4)];
            let mut sectors = BTreeMap::new();
            for number in 0..4 {
                let mut data = [0; SECTOR_SIZE];
                for (to, from) in data.iter_mut().zip(content.iter().cycle()) {
                    *to = *from;
                }
                data[..4].copy_from_slice(&LABEL_MAGIC.to_le_bytes());
                data[132..136].copy_from_slice(&LABEL_MAGIC.to_le_bytes());
                sectors.insert(number, data);
            }
            let place = PartitionPlace { first_sector: first, sectors: length };
            if check(&relocation, &regions).is_ok() {
                let answer = apply(&relocation, Some(place), &mut sectors);
                let refused_late = matches!(
                    answer,
                    Err(RelocationError::Outside { .. } | RelocationError::Malformed { .. })
                );
                prop_assert!(!refused_late);
            } else {
                let _ = apply(&relocation, Some(place), &mut sectors);
            }
        }
    }
}
