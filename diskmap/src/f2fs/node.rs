//! The node address table (NAT) of F2FS, against which the segment information is checked: every
//! node has a block that is valid, and there are as many as the checkpoint counts.
//!
//! Source: Linux `include/linux/f2fs_fs.h` (`struct f2fs_nat_entry`, `nat_journal_entry`,
//! `node_footer`), `fs/f2fs/node.h` (`current_nat_addr`, `is_recoverable_dnode`).

use std::collections::BTreeMap;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checkpoint::Checkpoint;
use super::segment::Segments;
use super::superblock::Geometry;
use super::{BLOCK, NAME, SEGMENT, is_set, read_block};
use crate::error::{Corrupt, Fault, Incompatible};
use crate::source::Window;

const STRUCTURE: &str = "F2FS node address table";
/// In a block.
const ENTRIES: u32 = 455;
/// A node that has no block yet.
const NEW: u32 = u32::MAX;
/// Of the footer in a node's block.
const FOOTER_OFFSET: usize = 4072;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    version: u8,
    inode: U32,
    block: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawJournalEntry {
    node: U32,
    entry: RawEntry,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    node: U32,
    inode: U32,
    flags: U32,
    /// Of the checkpoint before; in the upper half its checksum, or nothing.
    checkpoint: U64,
    next: U32,
}

/// Refuses a filesystem with nodes that were written after its checkpoint: the kernel adds them
/// when it mounts (roll-forward), so the table of segments is not the last word.
pub(super) fn check_nothing_follows(
    window: &Window<'_>,
    checkpoint: &Checkpoint,
) -> Result<(), Fault> {
    for &number in &checkpoint.next_nodes {
        let bytes = read_block(window, number)?;
        let footer = bytes.get(FOOTER_OFFSET..).unwrap_or_default();
        let Ok(footer) = RawFooter::read_from_bytes(footer) else {
            continue;
        };
        // The halves without the checksum.
        if footer.checkpoint.get() << 32 == checkpoint.version << 32 {
            let kind = Incompatible::NotClean {
                filesystem: NAME,
                what: "has nodes that are newer than its checkpoint",
                remedy: "mount and unmount it, or run fsck.f2fs",
            };
            return Err(window.fault(number.saturating_mul(BLOCK), kind));
        }
    }
    Ok(())
}

/// Compares the table with the segment information.
pub(super) fn check(
    window: &Window<'_>,
    geometry: &Geometry,
    checkpoint: &Checkpoint,
    segments: &Segments,
) -> Result<(), Fault> {
    let at = geometry.checkpoint.saturating_mul(BLOCK);
    let journal = journal(checkpoint).map_err(|kind| window.fault(at, kind))?;
    let mut nodes = 0_u64;
    for index in 0..geometry.nat_blocks {
        // The copies alternate, segment by segment.
        let pair = (index / SEGMENT).saturating_mul(SEGMENT);
        let mut number = geometry.nat.saturating_add(index).saturating_add(pair);
        if is_set(&checkpoint.nat_bitmap, index) {
            number = number.saturating_add(SEGMENT);
        }
        let bytes = read_block(window, number)?;
        let first = index.saturating_mul(ENTRIES.into());
        let entries = bytes.chunks_exact(size_of::<RawEntry>()).zip(first..);
        for (bytes, node) in entries {
            let node = u32::try_from(node).unwrap_or(u32::MAX);
            let newest = journal.get(&node).copied();
            let entry = newest.map_or_else(|| RawEntry::read_from_bytes(bytes).ok(), Some);
            let block = entry.map_or(0, |entry| entry.block.get());
            if block == 0 || block == NEW || geometry.virtual_inodes.contains(&node) {
                continue;
            }
            nodes = nodes.saturating_add(1);
            segments
                .check_used(geometry, block.into(), "F2FS node")
                .map_err(|kind| window.fault(number.saturating_mul(BLOCK), kind))?;
        }
    }
    if nodes != checkpoint.valid_nodes {
        let kind = Corrupt::Count {
            what: "nodes of F2FS",
            recorded: checkpoint.valid_nodes,
            counted: nodes,
        };
        return Err(window.fault(at, kind));
    }
    Ok(())
}

/// The entries in the journal, by node.
fn journal(checkpoint: &Checkpoint) -> Result<BTreeMap<u32, RawEntry>, Corrupt> {
    let entries = super::journal_entries::<RawJournalEntry>(&checkpoint.nat_journal, STRUCTURE)?;
    let mut list = BTreeMap::new();
    for raw in entries {
        if list.insert(raw.node.get(), raw.entry).is_some() {
            return Err(Corrupt::Conflict {
                structure: STRUCTURE,
                block: raw.node.get().into(),
            });
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawEntry>(), 9);
        assert_eq!(size_of::<RawJournalEntry>(), 13);
        assert_eq!(FOOTER_OFFSET + size_of::<RawFooter>(), 4096);
        assert_eq!(4096 / size_of::<RawEntry>(), 455);
    }
}
