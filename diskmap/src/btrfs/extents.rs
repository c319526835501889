//! The extent tree: which logical addresses are in use, and so what is free in each chunk.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h` (`struct btrfs_extent_item`,
//! `btrfs_block_group_item`) and `fs/btrfs/tree-checker.c` (`check_extent_item`,
//! `check_block_group_item`).

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::{Chunk, Chunks, DATA, FIRST_CHUNK_TREE, METADATA, SYSTEM};
use super::node::Key;
use super::superblock::Superblock;
use crate::Cause;
use crate::error::Corrupt;
use crate::extent::{Extent, FreeRuns};

const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
/// References that do not fit into the item of their extent: `EXTENT_OWNER_REF` (which stays
/// inline), `TREE_BLOCK_REF`, `EXTENT_DATA_REF`, `SHARED_BLOCK_REF`, `SHARED_DATA_REF`.
const REFERENCES: [u8; 5] = [172, 176, 178, 182, 184];
pub(super) const BLOCK_GROUP_ITEM: u8 = 192;
const FLAG_DATA: u64 = 1 << 0;
const FLAG_TREE_BLOCK: u64 = 1 << 1;
const FLAG_FULL_BACKREF: u64 = 1 << 8;
const EXTENT: &str = "Btrfs extent";
const BLOCK_GROUP: &str = "Btrfs block group";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawExtent {
    refs: U64,
    generation: U64,
    flags: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlockGroup {
    used: U64,
    chunk_objectid: U64,
    flags: U64,
}

/// What is known of a chunk's contents.
#[derive(Default, Clone, Copy)]
struct Group {
    /// Bytes in use by the block group item.
    recorded: Option<u64>,
    /// Bytes in extents.
    counted: u64,
}

/// The walk over the extents, in the order of their addresses.
pub(super) struct Scan<'a> {
    superblock: &'a Superblock,
    chunks: &'a [Chunk],
    groups: Vec<Group>,
    /// The chunk that extents are counted in now.
    current: usize,
    /// End of the last extent in it.
    position: u64,
    /// Start of the last extent.
    last: Option<u64>,
    /// In sectors of the filesystem, in the order of logical addresses.
    free: FreeRuns,
}

impl<'a> Scan<'a> {
    pub(super) fn new(superblock: &'a Superblock, chunks: &'a Chunks) -> Self {
        let chunks = chunks.list();
        Self {
            superblock,
            chunks,
            groups: vec![Group::default(); chunks.len()],
            current: 0,
            position: 0,
            last: None,
            free: FreeRuns::default(),
        }
    }

    /// Takes an item of the extent tree; in ascending order.
    pub(super) fn extent_tree(&mut self, key: Key, data: &[u8]) -> Result<(), Cause> {
        match key.kind {
            EXTENT_ITEM | METADATA_ITEM => self.extent(key, data),
            BLOCK_GROUP_ITEM if !self.superblock.block_group_tree => self.block_group(key, data),
            kind if REFERENCES.contains(&kind) => match self.last {
                Some(last) if last == key.objectid => Ok(()),
                _ => Err(structure("is missing, but has references")),
            },
            kind => Err(Corrupt::Field {
                structure: "Btrfs extent tree",
                field: "item type",
                value: kind.into(),
            }
            .into()),
        }
    }

    /// Takes an item of the extent tree or of the block group tree.
    pub(super) fn block_group(&mut self, key: Key, data: &[u8]) -> Result<(), Cause> {
        let raw = RawBlockGroup::ref_from_bytes(data)
            .ok()
            .filter(|_| key.kind == BLOCK_GROUP_ITEM)
            .ok_or(Corrupt::Structure {
                structure: BLOCK_GROUP,
                problem: "has a bad size",
            })?;
        let at = self
            .chunks
            .partition_point(|chunk| chunk.logical.first < key.objectid);
        let logical = Extent {
            first: key.objectid,
            count: key.offset,
        };
        let chunk = self.chunks.get(at).zip(self.groups.get_mut(at));
        let (chunk, group) =
            chunk
                .filter(|(chunk, _)| chunk.logical == logical)
                .ok_or(Corrupt::Outside {
                    structure: BLOCK_GROUP,
                    block: key.objectid,
                })?;
        if raw.flags.get() != chunk.kind || raw.chunk_objectid.get() != FIRST_CHUNK_TREE {
            let kind = Corrupt::Field {
                structure: BLOCK_GROUP,
                field: "flags",
                value: raw.flags.get(),
            };
            return Err(kind.into());
        }
        group.recorded = Some(raw.used.get());
        Ok(())
    }

    fn extent(&mut self, key: Key, data: &[u8]) -> Result<(), Cause> {
        let (raw, _) =
            RawExtent::ref_from_prefix(data).map_err(|_| structure("has an item too short"))?;
        let field = |field, value| Corrupt::Field {
            structure: EXTENT,
            field,
            value,
        };
        let node_len = u64::from(self.superblock.nodesize);
        let flags = raw.flags.get() & !FLAG_FULL_BACKREF;
        let is_node = flags == FLAG_TREE_BLOCK;
        let count = if key.kind == METADATA_ITEM {
            node_len
        } else {
            key.offset
        };
        let extent = Extent {
            first: key.objectid,
            count,
        };
        if !is_node && (flags != FLAG_DATA || key.kind == METADATA_ITEM) {
            return Err(field("flags", raw.flags.get()).into());
        }
        if raw.refs.get() == 0 {
            return Err(field("refs", 0).into());
        }
        if raw.generation.get() > self.superblock.generation {
            return Err(field("generation", raw.generation.get()).into());
        }
        let aligned = |value: u64| value.is_multiple_of(self.superblock.sectorsize);
        if count == 0 || !aligned(count) || (is_node && count != node_len) {
            return Err(field("length", count).into());
        }
        if !aligned(extent.first) || extent.first.checked_add(count).is_none() {
            return Err(field("address", extent.first).into());
        }
        while self
            .chunks
            .get(self.current)
            .is_some_and(|chunk| chunk.logical.end() <= extent.first)
        {
            self.leave_chunk();
        }
        let chunk = self
            .chunks
            .get(self.current)
            .zip(self.groups.get_mut(self.current));
        let (chunk, group) = chunk
            .filter(|(chunk, _)| chunk.logical.covers(&extent))
            .ok_or(Corrupt::Outside {
                structure: EXTENT,
                block: extent.first,
            })?;
        let home = if is_node { METADATA | SYSTEM } else { DATA };
        if chunk.kind & home == 0 {
            return Err(structure("lies in a chunk for other contents"));
        }
        if extent.first < self.position {
            let kind = Corrupt::Conflict {
                structure: EXTENT,
                block: extent.first,
            };
            return Err(kind.into());
        }
        group.counted = group.counted.saturating_add(count);
        let chunk = *chunk;
        self.gap(&chunk, extent.first);
        self.position = extent.end();
        self.last = Some(extent.first);
        Ok(())
    }

    /// The rest of the current chunk is free.
    fn leave_chunk(&mut self) {
        if let Some(chunk) = self.chunks.get(self.current).copied() {
            self.gap(&chunk, chunk.logical.end());
            self.position = chunk.logical.end();
        }
        self.current = self.current.saturating_add(1);
    }

    /// What lies between the last extent and `end` in a chunk is free, in every copy.
    fn gap(&mut self, chunk: &Chunk, end: u64) {
        let first = self.position.max(chunk.logical.first);
        let Some(part) = Extent::between(first, end) else {
            return;
        };
        let unit = self.superblock.sectorsize;
        for copy in chunk.copies(part) {
            // Not in the order of the device; the list is sorted at the end.
            self.free.push(Extent {
                first: copy.first.div_euclid(unit),
                count: copy.count.div_euclid(unit),
            });
        }
    }

    /// What is free in the chunks, in sectors of the filesystem and no order, after all items
    /// were taken, and if the counters agree.
    pub(super) fn finish(mut self) -> Result<FreeRuns, Cause> {
        while self.current < self.chunks.len() {
            self.leave_chunk();
        }
        let mut total = 0_u64;
        for (group, chunk) in self.groups.iter().zip(self.chunks) {
            let recorded = group.recorded.ok_or(Corrupt::Outside {
                structure: "Btrfs chunk without a block group",
                block: chunk.logical.first,
            })?;
            check_count("bytes used in a Btrfs block group", recorded, group.counted)?;
            total = total.saturating_add(recorded);
        }
        check_count(
            "bytes used by the Btrfs superblock",
            self.superblock.bytes_used,
            total,
        )?;
        Ok(self.free)
    }
}

/// Refuses a number that differs from what was counted.
pub(super) fn check_count(what: &'static str, recorded: u64, counted: u64) -> Result<(), Cause> {
    if recorded != counted {
        let kind = Corrupt::Count {
            what,
            recorded,
            counted,
        };
        return Err(kind.into());
    }
    Ok(())
}

fn structure(problem: &'static str) -> Cause {
    let kind = Corrupt::Structure {
        structure: EXTENT,
        problem,
    };
    kind.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawExtent>(), 24);
        assert_eq!(size_of::<RawBlockGroup>(), 24);
    }
}
