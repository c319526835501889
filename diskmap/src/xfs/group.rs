//! An allocation group: its headers, and the free extents of its two trees.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_format.h` (`struct xfs_agf`, `xfs_agi`, `xfs_agfl`,
//! `xfs_alloc_rec`, `xfs_inobt_rec`). Each header fills one sector; the superblock, or a copy of
//! it, comes first.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::btree::{self, Tree};
use super::superblock::{self, Geometry};
use super::{be32, crc_matches};
use crate::error::{Corrupt, Fault};
use crate::extent::{Extent, FreeRuns};
use crate::source::Window;

const FREE_SPACE: &str = "XFS free space header of group";
const INODES: &str = "XFS inode header of group";
const FREE_LIST: &str = "XFS free list of group";
const BACKUP: &str = "XFS superblock of group";
/// Of inodes, in a record of the inode tree.
const CHUNK: u64 = 64;
/// Of inodes, for which a bit of the hole mask stands.
const HOLE: u64 = 4;

/// `struct xfs_agf`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFreeSpace {
    magic: [u8; 4],
    version: U32,
    number: U32,
    length: U32,
    /// By block, by length, reverse map.
    roots: [U32; 3],
    levels: [U32; 3],
    list_first: U32,
    list_last: U32,
    list_count: U32,
    free_blocks: U32,
    longest: U32,
    tree_blocks: U32,
    uuid: [u8; 16],
    reverse_map_blocks: U32,
    refcount_blocks: U32,
    refcount_root: U32,
    refcount_level: U32,
    spare: [U64; 14],
    lsn: U64,
    crc: U32,
}

/// `struct xfs_agi`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawInodes {
    magic: [u8; 4],
    version: U32,
    number: U32,
    length: U32,
    count: U32,
    root: U32,
    level: U32,
    free_count: U32,
    new_inode: U32,
    dir_inode: U32,
    unlinked: [U32; 64],
    uuid: [u8; 16],
    crc: U32,
    pad: U32,
    lsn: U64,
    free_root: U32,
    free_level: U32,
}

/// `struct xfs_agfl`, which version 4 has not.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFreeList {
    magic: [u8; 4],
    number: U32,
    uuid: [u8; 16],
    lsn: U64,
    crc: U32,
}

/// The walk over all groups, in their order.
pub(super) struct Scan<'a> {
    pub(super) window: &'a Window<'a>,
    pub(super) geometry: &'a Geometry,
    /// In blocks from the start of the filesystem.
    pub(super) free: FreeRuns,
    pub(super) free_blocks: u64,
    /// As the superblock counts: with the blocks of the free list, with or without those of trees.
    pub(super) counted_blocks: u64,
}

impl Scan<'_> {
    /// Adds what is free in a group, if all of the group holds together.
    pub(super) fn group(&mut self, number: u32) -> Result<(), Fault> {
        let geometry = self.geometry;
        let at = geometry.offset(number, 0);
        let group = Group::read(self.window, geometry, number)?;
        let length = geometry.group_blocks(number);
        let mut found = Tally::default();
        let mut end = group.header_blocks;
        let mut by_block = Tree::new(self.window, geometry, &btree::BY_BLOCK, number);
        let free = &mut self.free;
        by_block.walk(group.roots[0], group.levels[0], &mut |record| {
            let (first, count) = (be32(record, 0), be32(record, 4));
            let next = first.checked_add(count).filter(|&next| next <= length);
            let Some(next) = next.filter(|_| first >= end && count > 0) else {
                return Err(Corrupt::Outside {
                    structure: btree::BY_BLOCK.name,
                    block: first.into(),
                });
            };
            end = next;
            found.add(first, count);
            free.push(Extent {
                first: geometry.block(number, first),
                count: count.into(),
            });
            Ok(())
        })?;
        let mut twice = Tally::default();
        let mut by_length = Tree::new(self.window, geometry, &btree::BY_LENGTH, number);
        by_length.walk(group.roots[1], group.levels[1], &mut |record| {
            twice.add(be32(record, 0), be32(record, 4));
            Ok(())
        })?;
        if found != twice {
            let kind = Corrupt::Structure {
                structure: "XFS free space trees",
                problem: "disagree about the free extents",
            };
            return Err(self.window.fault(at, kind));
        }
        let fault = |kind| self.window.fault(at, kind);
        for (what, recorded, counted) in [
            (
                "free blocks of an XFS group",
                group.free_blocks,
                found.blocks,
            ),
            (
                "longest free extent of an XFS group",
                group.longest,
                found.longest.into(),
            ),
        ] {
            if u64::from(recorded) != counted {
                let recorded = recorded.into();
                return Err(fault(Corrupt::Count {
                    what,
                    recorded,
                    counted,
                }));
            }
        }
        let trees = by_block.blocks.iter().chain(&by_length.blocks);
        for &block in group.metadata.iter().chain(trees) {
            self.check_used(number, block, 1, "XFS metadata that are free")
                .map_err(fault)?;
        }
        self.check_used(number, 0, group.header_blocks, "XFS headers that are free")
            .map_err(fault)?;
        if number == geometry.log_group {
            let (first, count) = (geometry.log_first, geometry.log_blocks);
            self.check_used(number, first, count, "an XFS log that is free")
                .map_err(fault)?;
        }
        self.inodes(&group, number)?;
        self.free_blocks = self.free_blocks.saturating_add(found.blocks);
        self.counted_blocks = self
            .counted_blocks
            .saturating_add(found.blocks)
            .saturating_add(group.list_blocks);
        if geometry.features.has_lazy_count() {
            self.counted_blocks = self.counted_blocks.saturating_add(group.tree_blocks.into());
        }
        Ok(())
    }

    /// Walks the inode tree: its blocks and the chunks of inodes it lists must not be free.
    fn inodes(&self, group: &Group, number: u32) -> Result<(), Fault> {
        let geometry = self.geometry;
        let length = geometry.group_blocks(number);
        let (root, level) = group.inode_tree;
        let mut inodes = 0_u64;
        let mut tree = Tree::new(self.window, geometry, &btree::INODES, number);
        tree.walk(root, level, &mut |record| {
            let first = u64::from(be32(record, 0));
            let (holes, count) = if geometry.features.has_sparse_inodes() {
                let word = be32(record, 4);
                (word >> 16, u64::from(word >> 8 & 0xff))
            } else {
                (0, CHUNK)
            };
            inodes = inodes.saturating_add(count);
            let run = if holes == 0 { CHUNK } else { HOLE };
            let runs = (0..CHUNK).step_by(usize::try_from(run).unwrap_or(1));
            for offset in runs {
                let bit = u32::try_from(offset / HOLE).unwrap_or_default();
                if holes.checked_shr(bit).unwrap_or_default() & 1 != 0 {
                    continue;
                }
                let start = first.saturating_add(offset);
                let block = |inode: u64| {
                    let shift = geometry.inodes_per_block_log.into();
                    let block = inode.checked_shr(shift).unwrap_or_default();
                    u32::try_from(block).ok().filter(|&block| block < length)
                };
                let last = start.saturating_add(run).saturating_sub(1);
                let (Some(start), Some(last)) = (block(start), block(last)) else {
                    return Err(Corrupt::Outside {
                        structure: btree::INODES.name,
                        block: start,
                    });
                };
                let count = last.saturating_sub(start).saturating_add(1);
                self.check_used(number, start, count, "XFS inodes that are free")?;
            }
            Ok(())
        })?;
        let fault = |kind| self.window.fault(geometry.offset(number, 0), kind);
        for &block in &tree.blocks {
            self.check_used(number, block, 1, "XFS metadata that are free")
                .map_err(fault)?;
        }
        if inodes != u64::from(group.inodes) {
            return Err(fault(Corrupt::Count {
                what: "inodes of an XFS group",
                recorded: group.inodes.into(),
                counted: inodes,
            }));
        }
        Ok(())
    }

    /// Refuses blocks of a group that are listed as free.
    fn check_used(
        &self,
        group: u32,
        first: u32,
        count: u32,
        structure: &'static str,
    ) -> Result<(), Corrupt> {
        let used = Extent {
            first: self.geometry.block(group, first),
            count: count.into(),
        };
        let runs = self.free.runs();
        let at = runs.partition_point(|run| run.end() <= used.first);
        match runs.get(at).filter(|run| run.overlaps(&used)) {
            None => Ok(()),
            Some(run) => Err(Corrupt::Conflict {
                structure,
                block: run.first.max(used.first),
            }),
        }
    }
}

/// What is the same of two lists of extents in different orders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    extents: u64,
    blocks: u64,
    longest: u32,
    /// The sum of a hash over each extent.
    hash: u64,
}

impl Tally {
    fn add(&mut self, first: u32, count: u32) {
        self.extents = self.extents.saturating_add(1);
        self.blocks = self.blocks.saturating_add(count.into());
        self.longest = self.longest.max(count);
        // The finalizer of SplitMix64.
        let mut mixed = u64::from(first) << 32 | u64::from(count);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.hash = self.hash.wrapping_add(mixed ^ mixed >> 31);
    }
}

/// What the headers of a group say, checked.
struct Group {
    /// Blocks that hold headers.
    header_blocks: u32,
    /// By block, by length.
    roots: [u32; 2],
    levels: [u32; 2],
    /// Roots of other trees and blocks kept for them.
    metadata: Vec<u32>,
    free_blocks: u32,
    longest: u32,
    tree_blocks: u32,
    list_blocks: u64,
    /// Root and levels.
    inode_tree: (u32, u32),
    inodes: u32,
}

impl Group {
    fn read(window: &Window<'_>, geometry: &Geometry, number: u32) -> Result<Self, Fault> {
        let at = geometry.offset(number, 0);
        let sector = usize::try_from(geometry.sector_size).unwrap_or_default();
        let mut bytes = vec![0; sector.saturating_mul(4)];
        window.read(&mut bytes, at)?;
        let mut sectors = bytes.chunks_exact(sector);
        let mut next = || sectors.next().unwrap_or_default();
        let headers = Headers {
            geometry,
            number,
            sectors: [next(), next(), next(), next()],
        };
        headers.group().map_err(|(sector, kind)| {
            let offset = sector.saturating_mul(geometry.sector_size.into());
            window.fault(at.saturating_add(offset), kind)
        })
    }
}

/// The four header sectors of a group.
struct Headers<'a> {
    geometry: &'a Geometry,
    number: u32,
    sectors: [&'a [u8]; 4],
}

/// A finding in one of the four sectors.
type Finding = (u64, Corrupt);

impl Headers<'_> {
    fn group(&self) -> Result<Group, Finding> {
        let [backup, free_space, inodes, free_list] = self.sectors;
        self.check_backup(backup).map_err(|kind| (0, kind))?;
        let (free_space, _) = RawFreeSpace::read_from_prefix(free_space)
            .map_err(|_| (1, self.field(FREE_SPACE, "length", 0)))?;
        self.check_free_space(&free_space)
            .map_err(|kind| (1, kind))?;
        let (inodes, _) = RawInodes::read_from_prefix(inodes)
            .map_err(|_| (2, self.field(INODES, "length", 0)))?;
        self.check_inodes(&inodes).map_err(|kind| (2, kind))?;
        let list = self
            .free_list(&free_space, free_list)
            .map_err(|kind| (3, kind))?;
        let list_blocks = free_space.list_count.get().into();
        let features = self.geometry.features;
        let mut metadata = list;
        let [by_block, by_length, reverse_map] = free_space.roots.map(U32::get);
        if features.has_reverse_map() {
            metadata.push(reverse_map);
        }
        if features.has_reflink() {
            metadata.push(free_space.refcount_root.get());
        }
        if features.has_free_inode_tree() {
            metadata.push(inodes.free_root.get());
        }
        let length = self.geometry.group_blocks(self.number);
        if let Some(&block) = metadata.iter().find(|&&block| block >= length) {
            let kind = Corrupt::Outside {
                structure: "XFS header of a group",
                block: block.into(),
            };
            return Err((1, kind));
        }
        let [by_block_levels, by_length_levels, _] = free_space.levels.map(U32::get);
        let header_bytes = self.geometry.sector_size.saturating_mul(4);
        Ok(Group {
            header_blocks: header_bytes.div_ceil(self.geometry.block_size.max(1)),
            roots: [by_block, by_length],
            levels: [by_block_levels, by_length_levels],
            metadata,
            free_blocks: free_space.free_blocks.get(),
            longest: free_space.longest.get(),
            tree_blocks: free_space.tree_blocks.get(),
            list_blocks,
            inode_tree: (inodes.root.get(), inodes.level.get()),
            inodes: inodes.count.get(),
        })
    }

    /// The copy of the superblock is only compared with the original in what never changes.
    fn check_backup(&self, sector: &[u8]) -> Result<(), Corrupt> {
        self.check_crc(sector, superblock::CRC_OFFSET, BACKUP)?;
        let geometry = self.geometry;
        self.check(
            sector.starts_with(superblock::MAGIC),
            BACKUP,
            "magicnum",
            be32(sector, 0),
        )?;
        for (at, field, expected) in [
            (4, "blocksize", geometry.block_size),
            (84, "agblocks", geometry.ag_blocks),
        ] {
            let value = be32(sector, at);
            self.check(value == expected, BACKUP, field, value)?;
        }
        Ok(())
    }

    fn check_free_space(&self, raw: &RawFreeSpace) -> Result<(), Corrupt> {
        self.check_crc(self.sectors[1], 216, FREE_SPACE)?;
        self.check_head(FREE_SPACE, raw.magic == *b"XAGF", &raw.uuid)?;
        let length = self.geometry.group_blocks(self.number);
        for (field, value, expected) in [
            ("versionnum", raw.version, 1),
            ("seqno", raw.number, self.number),
            ("length", raw.length, length),
        ] {
            self.check(value.get() == expected, FREE_SPACE, field, value.get())?;
        }
        Ok(())
    }

    fn check_inodes(&self, raw: &RawInodes) -> Result<(), Corrupt> {
        self.check_crc(self.sectors[2], 312, INODES)?;
        self.check_head(INODES, raw.magic == *b"XAGI", &raw.uuid)?;
        let length = self.geometry.group_blocks(self.number);
        for (field, value, expected) in [
            ("versionnum", raw.version, 1),
            ("seqno", raw.number, self.number),
            ("length", raw.length, length),
        ] {
            self.check(value.get() == expected, INODES, field, value.get())?;
        }
        Ok(())
    }

    /// The blocks that are kept for the trees: free, but not for files, and not on the trees.
    fn free_list(&self, raw: &RawFreeSpace, sector: &[u8]) -> Result<Vec<u32>, Corrupt> {
        let header = if self.geometry.features.is_v5() {
            self.check_crc(sector, 32, FREE_LIST)?;
            let (head, _) = RawFreeList::read_from_prefix(sector)
                .map_err(|_| self.field(FREE_LIST, "length", 0))?;
            self.check_head(FREE_LIST, head.magic == *b"XAFL", &head.uuid)?;
            let number = head.number.get();
            self.check(number == self.number, FREE_LIST, "seqno", number)?;
            size_of::<RawFreeList>()
        } else {
            0
        };
        let slots = sector.get(header..).unwrap_or_default().chunks_exact(4);
        let size = u32::try_from(slots.len()).unwrap_or_default();
        let (first, last) = (raw.list_first.get(), raw.list_last.get());
        let count = raw.list_count.get();
        self.check(first < size, FREE_SPACE, "flfirst", first)?;
        self.check(last < size, FREE_SPACE, "fllast", last)?;
        // The list is a ring; the slots from the first to the last are in use, unless it is empty.
        let active = if count == 0 {
            0
        } else if first <= last {
            last.saturating_sub(first).saturating_add(1)
        } else {
            size.saturating_sub(first)
                .saturating_add(last)
                .saturating_add(1)
        };
        self.check(count == active, FREE_SPACE, "flcount", count)?;
        let skipped = usize::try_from(first).unwrap_or_default();
        let taken = usize::try_from(count).unwrap_or_default();
        let ring = slots.clone().chain(slots).skip(skipped).take(taken);
        Ok(ring.map(|slot| be32(slot, 0)).collect())
    }

    /// Magic number, and in version 5 the UUID.
    fn check_head(
        &self,
        structure: &'static str,
        magic: bool,
        uuid: &[u8; 16],
    ) -> Result<(), Corrupt> {
        self.check(magic, structure, "magicnum", self.number)?;
        let is_own = !self.geometry.features.is_v5() || *uuid == self.geometry.meta_uuid;
        self.check(is_own, structure, "uuid", self.number)
    }

    fn check_crc(&self, sector: &[u8], at: usize, structure: &'static str) -> Result<(), Corrupt> {
        if !self.geometry.features.is_v5() || crc_matches(sector, at) {
            return Ok(());
        }
        Err(Corrupt::Checksum {
            structure,
            number: self.number.into(),
        })
    }

    fn check(
        &self,
        valid: bool,
        structure: &'static str,
        field: &'static str,
        value: u32,
    ) -> Result<(), Corrupt> {
        if valid {
            Ok(())
        } else {
            Err(self.field(structure, field, value))
        }
    }

    fn field(&self, structure: &'static str, field: &'static str, value: u32) -> Corrupt {
        Corrupt::Field {
            structure,
            field,
            value: value.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(offset_of!(RawFreeSpace, roots), 16);
        assert_eq!(offset_of!(RawFreeSpace, levels), 28);
        assert_eq!(offset_of!(RawFreeSpace, free_blocks), 52);
        assert_eq!(offset_of!(RawFreeSpace, uuid), 64);
        assert_eq!(offset_of!(RawFreeSpace, refcount_root), 88);
        assert_eq!(offset_of!(RawFreeSpace, crc), 216);
        assert_eq!(offset_of!(RawInodes, root), 20);
        assert_eq!(offset_of!(RawInodes, uuid), 296);
        assert_eq!(offset_of!(RawInodes, crc), 312);
        assert_eq!(offset_of!(RawInodes, free_root), 328);
        assert_eq!(offset_of!(RawFreeList, crc), 32);
        assert_eq!(size_of::<RawFreeList>(), 36);
    }
}
