//! Blocks of a journal that nothing is to be replayed from: all but its superblock.
//!
//! Source: Linux `fs/ext4/ext4_extents.h`, `include/linux/jbd2.h` (`journal_superblock_t`). Only a
//! journal whose inode maps it with extents of its own, and whose map has its copy in the
//! superblock, is looked at; of any other one everything is kept.

#![warn(clippy::arithmetic_side_effects, clippy::as_conversions)]

use zerocopy::big_endian::U32 as BigU32;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{Protection, crc32c};
use super::group::Group;
use super::superblock::Geometry;
use crate::error::Fault;
use crate::extent::{Extent, intersect, normalize};
use crate::source::Window;

const EXTENTS_FLAG: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
/// Longer extents are blocks that were never written.
const EXTENT_LEN_MAX: u16 = 32768;
const JOURNAL_MAGIC: u32 = 0xc03b_3998;
/// Superblocks of version 1 and 2.
const JOURNAL_SUPERBLOCKS: [u32; 2] = [3, 4];

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInode {
    mode_to_blocks: [u8; 32], // 0x00
    flags: U32,               // 0x20
    version: U32,             // 0x24
    map: [u8; 60],            // 0x28
    generation: U32,          // 0x64
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U16,
    entries: U16,
    max: U16,
    depth: U16,
    generation: U32,
}

/// What stands instead of an extent in a node above the leaves.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawIndex {
    block: U32,
    leaf_lo: U32,
    leaf_hi: U16,
    unused: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    block: U32,
    len: U16,
    start_hi: U16,
    start_lo: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawJournal {
    magic: BigU32,
    block_type: BigU32,
    sequence: BigU32,
    block_size: BigU32,
    max_len: BigU32,
    first: BigU32,
    first_sequence: BigU32,
    start: BigU32,
}

/// The journal's blocks behind its superblock, if it is empty; else none. They must be nobody
/// else's: not in the normalized `metadata`, not `free`, and no block twice.
pub(super) fn contents(
    window: &Window<'_>,
    geometry: &Geometry,
    groups: &[Group],
    metadata: &[Extent],
    free: &[Extent],
) -> Result<Vec<Extent>, Fault> {
    let Some(mut extents) = map(window, geometry, groups)? else {
        return Ok(Vec::new());
    };
    let all = normalize(extents.clone());
    let length = |list: &[Extent]| list.iter().map(|extent| extent.count).sum::<u64>();
    let is_own = length(&all) == length(&extents)
        && intersect(&all, metadata).is_empty()
        && intersect(&all, free).is_empty();
    if !is_own {
        return Ok(Vec::new());
    }
    let block_size = u64::from(geometry.block_size);
    let blocks: u64 = extents.iter().map(|extent| extent.count).sum();
    let Some(first) = extents.first_mut() else {
        return Ok(Vec::new());
    };
    let journal: RawJournal = window.read_struct(first.first.saturating_mul(block_size))?;
    let is_empty = journal.magic.get() == JOURNAL_MAGIC
        && JOURNAL_SUPERBLOCKS.contains(&journal.block_type.get())
        && journal.block_size.get() == geometry.block_size
        && u64::from(journal.max_len.get()) == blocks
        && journal.start.get() == 0;
    if !is_empty {
        return Ok(Vec::new());
    }
    first.first = first.first.saturating_add(1);
    first.count = first.count.saturating_sub(1);
    Ok(normalize(extents))
}

/// The journal's extents in the order of its blocks.
fn map(
    window: &Window<'_>,
    geometry: &Geometry,
    groups: &[Group],
) -> Result<Option<Vec<Extent>>, Fault> {
    let Some((number, copy)) = geometry.journal else {
        return Ok(None);
    };
    // All reserved inodes are in the first group.
    let (Some(index), Some(group)) = (number.checked_sub(1), groups.first()) else {
        return Ok(None);
    };
    let block_size = u64::from(geometry.block_size);
    let within = u64::from(index).saturating_mul(geometry.inode_size.into());
    let table = geometry.inode_table_blocks.saturating_mul(block_size);
    if index >= 10 || within >= table {
        return Ok(None);
    }
    let at = group.inode_table().saturating_mul(block_size);
    let inode: RawInode = window.read_struct(at.saturating_add(within))?;
    if inode.flags.get() & EXTENTS_FLAG == 0 || inode.map != copy {
        return Ok(None);
    }
    let mut extents = Extents {
        blocks: geometry.blocks,
        found: Vec::new(),
        next: 0,
    };
    let Some((root, entries)) = node(&copy) else {
        return Ok(None);
    };
    if root.depth.get() == 0 {
        return Ok(extents.add(entries).then_some(extents.found));
    }
    if root.depth.get() > 1 {
        return Ok(None);
    }
    let seed = match geometry.protection {
        Protection::Crc32c { seed } => Some(crc32c(
            seed,
            &[&number.to_le_bytes(), inode.generation.as_bytes()],
        )),
        _ => None,
    };
    // One level suffices for journals of 32 GiB.
    let mut leaf = vec![0; usize::try_from(block_size).unwrap_or(0)];
    for entry in entries {
        let Ok(index) = RawIndex::read_from_bytes(entry.as_bytes()) else {
            return Ok(None);
        };
        let block = u64::from(index.leaf_hi.get()) << 32 | u64::from(index.leaf_lo.get());
        window.read(&mut leaf, block.saturating_mul(block_size))?;
        if seed.is_some_and(|seed| !leaf_matches(seed, &leaf)) {
            return Ok(None);
        }
        match node(&leaf) {
            Some((header, entries)) if header.depth.get() == 0 && extents.add(entries) => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(extents.found))
}

/// Whether a leaf matches the checksum behind the last extent that it has room for.
fn leaf_matches(seed: u32, leaf: &[u8]) -> bool {
    let Ok((header, _)) = RawHeader::ref_from_prefix(leaf) else {
        return false;
    };
    let end = usize::from(header.max.get())
        .saturating_mul(size_of::<RawExtent>())
        .saturating_add(size_of::<RawHeader>());
    leaf.split_at_checked(end).is_some_and(|(covered, rest)| {
        rest.first_chunk::<4>() == Some(&crc32c(seed, &[covered]).to_le_bytes())
    })
}

/// The header and the entries of a node.
fn node(bytes: &[u8]) -> Option<(&RawHeader, &[RawExtent])> {
    let (header, rest) = RawHeader::ref_from_prefix(bytes).ok()?;
    let entries = usize::from(header.entries.get());
    let (entries, _) = <[RawExtent]>::ref_from_prefix_with_elems(rest, entries).ok()?;
    (header.magic.get() == EXTENT_MAGIC).then_some((header, entries))
}

/// The extents that were found.
struct Extents {
    /// Blocks of the filesystem.
    blocks: u64,
    found: Vec<Extent>,
    /// The block of the journal that comes next.
    next: u64,
}

impl Extents {
    /// Adds those of a leaf; whether they are sound and follow without a hole.
    fn add(&mut self, entries: &[RawExtent]) -> bool {
        entries.iter().all(|entry| {
            let high = u64::from(entry.start_hi.get()) << 32;
            let extent = Extent {
                first: high | u64::from(entry.start_lo.get()),
                count: entry.len.get().into(),
            };
            let is_sound = u64::from(entry.block.get()) == self.next
                && (1..=EXTENT_LEN_MAX).contains(&entry.len.get())
                && extent.end() <= self.blocks;
            self.next = self.next.saturating_add(extent.count);
            self.found.push(extent);
            is_sound
        })
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(offset_of!(RawInode, flags), 0x20);
        assert_eq!(offset_of!(RawInode, map), 0x28);
        assert_eq!(offset_of!(RawInode, generation), 0x64);
        assert_eq!(size_of::<RawHeader>(), 12);
        assert_eq!(size_of::<RawExtent>(), size_of::<RawIndex>());
        assert_eq!(offset_of!(RawJournal, start), 0x1c);
    }
}
