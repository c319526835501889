//! One node of a Btrfs tree: its header, and the items or pointers in it.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h` (`struct btrfs_header`, `btrfs_item`,
//! `btrfs_key_ptr`) and `fs/btrfs/tree-checker.c` (`check_leaf`, `check_node`).

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::NODE;
use super::superblock::Superblock;
use crate::error::Corrupt;

/// Where a tree begins, and what its first node must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    /// Logical address.
    pub(super) bytenr: u64,
    pub(super) generation: u64,
    pub(super) level: u8,
}

/// The key of an item, in the order of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) objectid: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) const MIN: Self = Self::new(0, 0, 0);
    pub(super) const MAX: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    pub(super) const fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Self {
            objectid,
            kind,
            offset,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawKey {
    objectid: U64,
    kind: u8,
    offset: U64,
}

impl From<RawKey> for Key {
    fn from(raw: RawKey) -> Self {
        Self::new(raw.objectid.get(), raw.kind, raw.offset.get())
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    checksum: [u8; 32],
    fsid: [u8; 16],
    bytenr: U64,
    flags: U64,
    chunk_tree_uuid: [u8; 16],
    generation: U64,
    owner: U64,
    nritems: U32,
    level: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawItem {
    key: RawKey,
    offset: U32,
    size: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPointer {
    key: RawKey,
    blockptr: U64,
    generation: U64,
}

/// A child of an internal node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    /// The first key in it.
    pub(super) key: Key,
    pub(super) node: Root,
}

/// What a node holds.
pub(super) enum Content {
    /// Keys in ascending order, and where their data lie in the node.
    Leaf(Vec<(Key, Range<usize>)>),
    /// Keys in ascending order; never empty.
    Internal(Vec<Child>),
}

/// A node that is what its parent expects.
pub(super) struct Node {
    pub(super) chunk_tree_uuid: [u8; 16],
    pub(super) content: Content,
}

/// Checks a node of the tree `owner`, which `expected` points to.
pub(super) fn parse(
    bytes: &[u8],
    superblock: &Superblock,
    expected: Root,
    owner: u64,
) -> Result<Node, Corrupt> {
    if !superblock.checksum.matches(bytes) {
        return Err(Corrupt::Checksum {
            structure: NODE,
            number: expected.bytenr,
        });
    }
    let (header, body) = RawHeader::ref_from_prefix(bytes).map_err(|_| problem("is too short"))?;
    let field = |field, value| Corrupt::Field {
        structure: NODE,
        field,
        value,
    };
    if header.fsid != superblock.fsid {
        return Err(problem("belongs to another filesystem"));
    }
    if header.bytenr.get() != expected.bytenr {
        return Err(field("bytenr", header.bytenr.get()));
    }
    let generation = header.generation.get();
    if generation != expected.generation || generation > superblock.generation {
        return Err(field("generation", generation));
    }
    if header.level != expected.level {
        return Err(field("level", header.level.into()));
    }
    if header.owner.get() != owner {
        return Err(field("owner", header.owner.get()));
    }
    let count = usize::try_from(header.nritems.get()).unwrap_or(usize::MAX);
    let content = if header.level == 0 {
        Content::Leaf(items(body, count)?)
    } else {
        Content::Internal(children(body, count, header.level)?)
    };
    Ok(Node {
        chunk_tree_uuid: header.chunk_tree_uuid,
        content,
    })
}

/// The data of an item, which `range` of a leaf's [`Content`] locates.
pub(super) fn item_data(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes
        .get(size_of::<RawHeader>()..)
        .and_then(|body| body.get(range))
        .unwrap_or_default()
}

/// The items of a leaf, whose data lie from its end downwards, without gaps.
fn items(body: &[u8], count: usize) -> Result<Vec<(Key, Range<usize>)>, Corrupt> {
    let (raw, _) = <[RawItem]>::ref_from_prefix_with_elems(body, count)
        .map_err(|_| problem("has more items than fit"))?;
    let mut data_start = body.len();
    let mut items: Vec<(Key, Range<usize>)> = Vec::with_capacity(count);
    for item in raw {
        let range = usize::try_from(item.offset.get())
            .ok()
            .zip(usize::try_from(item.size.get()).ok())
            .and_then(|(start, size)| Some(start..start.checked_add(size)?))
            .filter(|range| range.end == data_start)
            .ok_or_else(|| problem("has items whose data do not follow one another"))?;
        data_start = range.start;
        items.push((item.key.into(), range));
    }
    if data_start < size_of_val(raw) {
        return Err(problem("has items that overlap their data"));
    }
    if !items.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(problem("has keys out of order"));
    }
    Ok(items)
}

fn children(body: &[u8], count: usize, level: u8) -> Result<Vec<Child>, Corrupt> {
    let (raw, _) = <[RawPointer]>::ref_from_prefix_with_elems(body, count)
        .map_err(|_| problem("has more pointers than fit"))?;
    let children: Vec<Child> = raw
        .iter()
        .map(|pointer| Child {
            key: pointer.key.into(),
            node: Root {
                bytenr: pointer.blockptr.get(),
                generation: pointer.generation.get(),
                level: level.saturating_sub(1),
            },
        })
        .collect();
    if children.is_empty() {
        return Err(problem("has no pointers"));
    }
    if !children.is_sorted_by(|one, next| one.key < next.key) {
        return Err(problem("has keys out of order"));
    }
    Ok(children)
}

fn problem(problem: &'static str) -> Corrupt {
    Corrupt::Structure {
        structure: NODE,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<RawHeader>(), 101);
        assert_eq!(offset_of!(RawHeader, chunk_tree_uuid), 64);
        assert_eq!(offset_of!(RawHeader, owner), 88);
        assert_eq!(size_of::<RawItem>(), 25);
        assert_eq!(size_of::<RawPointer>(), 33);
    }
}
