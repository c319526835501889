//! The segment information table (SIT) of F2FS: which blocks of the main area are valid.
//!
//! Each block of the table exists twice; a bit in the checkpoint tells which one counts. Entries
//! in the journal of the checkpoint are newer than both.
//!
//! Source: Linux `include/linux/f2fs_fs.h` (`struct f2fs_sit_entry`, `sit_journal_entry`),
//! `fs/f2fs/segment.c` (`build_sit_entries`) and `segment.h` (`check_block_count`).

use std::collections::BTreeMap;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checkpoint::Checkpoint;
use super::superblock::Geometry;
use super::{BLOCK, SEGMENT, is_set, read_block};
use crate::bitmap;
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::source::Window;

const STRUCTURE: &str = "F2FS segment information";
/// In a block, which is not filled.
const ENTRIES: usize = 55;
/// Data and node logs, hot, warm and cold.
const TYPES: u16 = 6;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    /// The type in the upper 6 bits, the number of valid blocks in the others.
    valid: U16,
    /// The first block is the highest bit of the first byte.
    map: [u8; 64],
    modified: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawJournalEntry {
    segment: U32,
    entry: RawEntry,
}

/// What the table says of the main area.
pub(super) struct Segments {
    /// In blocks of the filesystem.
    pub(super) free: FreeRuns,
    pub(super) valid_blocks: u64,
}

/// Reads all entries. The blocks in `keep`, sorted, are not counted among the free ones.
pub(super) fn read(
    window: &Window<'_>,
    geometry: &Geometry,
    checkpoint: &Checkpoint,
    keep: &[u64],
) -> Result<Segments, Fault> {
    let journal = journal(window, geometry, checkpoint)?;
    let mut found = Segments {
        free: FreeRuns::default(),
        valid_blocks: 0,
    };
    let per_block = u32::try_from(ENTRIES).unwrap_or(1);
    let blocks = u64::from(geometry.main_segments.div_ceil(per_block));
    if blocks > geometry.sit_blocks {
        let kind = Corrupt::Outside {
            structure: STRUCTURE,
            block: blocks,
        };
        return Err(window.fault(geometry.sit.saturating_mul(BLOCK), kind));
    }
    let mut segment = 0_u32;
    for index in 0..blocks {
        let mut number = geometry.sit.saturating_add(index);
        if is_set(&checkpoint.sit_bitmap, index) {
            number = number.saturating_add(geometry.sit_blocks);
        }
        let bytes = read_block(window, number)?;
        for bytes in bytes.chunks_exact(size_of::<RawEntry>()).take(ENTRIES) {
            if segment >= geometry.main_segments {
                break;
            }
            let newest = journal.get(&segment).copied();
            let entry = newest.map_or_else(|| RawEntry::read_from_bytes(bytes).ok(), Some);
            let fault = |kind| window.fault(number.saturating_mul(BLOCK), kind);
            let entry = entry.ok_or_else(|| fault(Corrupt::PastEnd))?;
            found.add(geometry, segment, &entry, keep).map_err(fault)?;
            segment = segment.saturating_add(1);
        }
    }
    Ok(found)
}

impl Segments {
    /// Adds what is free in a segment, if its entry agrees with itself.
    fn add(
        &mut self,
        geometry: &Geometry,
        segment: u32,
        entry: &RawEntry,
        keep: &[u64],
    ) -> Result<(), Corrupt> {
        let word = entry.valid.get();
        let recorded = u64::from(word & 0x3ff);
        let ones = entry.map.iter().map(|byte| u64::from(byte.count_ones()));
        let counted: u64 = ones.sum();
        if recorded != counted {
            return Err(Corrupt::Count {
                what: "valid blocks of an F2FS segment",
                recorded,
                counted,
            });
        }
        if word >> 10 >= TYPES {
            return Err(Corrupt::Field {
                structure: STRUCTURE,
                field: "type",
                value: u64::from(word >> 10),
            });
        }
        self.valid_blocks = self.valid_blocks.saturating_add(counted);
        let first = u64::from(segment).saturating_mul(SEGMENT);
        let first = geometry.main.saturating_add(first);
        let mut map = entry.map.map(u8::reverse_bits);
        let start = keep.partition_point(|&block| block < first);
        for &block in keep.iter().skip(start) {
            let bit = block.saturating_sub(first);
            if bit >= SEGMENT {
                break;
            }
            bitmap::set(&mut map, bit, 1);
        }
        let bits = u32::try_from(SEGMENT).unwrap_or_default();
        bitmap::zero_runs(&map, bits, |bit, count| {
            self.free.push(Extent {
                first: first.saturating_add(bit.into()),
                count: count.into(),
            });
        });
        Ok(())
    }

    /// Refuses a block that is listed as free, or does not lie in the main area.
    pub(super) fn check_used(
        &self,
        geometry: &Geometry,
        block: u64,
        structure: &'static str,
    ) -> Result<(), Corrupt> {
        if block < geometry.main || block >= geometry.main_end() {
            return Err(Corrupt::Outside { structure, block });
        }
        let runs = self.free.runs();
        let at = runs.partition_point(|run| run.end() <= block);
        match runs.get(at).filter(|run| run.first <= block) {
            None => Ok(()),
            Some(_) => Err(Corrupt::Conflict { structure, block }),
        }
    }
}

/// The entries in the journal, by segment.
fn journal(
    window: &Window<'_>,
    geometry: &Geometry,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<u32, RawEntry>, Fault> {
    let bytes = &checkpoint.sit_journal;
    let structure = "F2FS journal of segment information";
    let fault = |kind| window.fault(geometry.checkpoint.saturating_mul(BLOCK), kind);
    let entries = super::journal_entries::<RawJournalEntry>(bytes, structure).map_err(fault)?;
    let mut list = BTreeMap::new();
    for raw in entries {
        let segment = raw.segment.get();
        let kind = if segment >= geometry.main_segments {
            Corrupt::Outside {
                structure,
                block: segment.into(),
            }
        } else if list.insert(segment, raw.entry).is_some() {
            Corrupt::Conflict {
                structure,
                block: segment.into(),
            }
        } else {
            continue;
        };
        return Err(fault(kind));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawEntry>(), 74);
        assert_eq!(size_of::<RawJournalEntry>(), 78);
    }
}
