//! Walks the short-form B+trees of an allocation group, record by record in their order.
//!
//! Checked on the way: magic, level, number of records, siblings, that the keys of a node are
//! the first ones of its children, that keys ascend over the whole tree; with version 5 also
//! checksum, place, owner and UUID of every block. Each leaf but an empty root has a record, and
//! no record comes twice, so the work is bounded by the blocks of the group.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_format.h` (`struct xfs_btree_block`), `xfs_btree.c`.

use super::superblock::Geometry;
use super::{be32, crc_matches};
use crate::error::{Corrupt, Fault};
use crate::source::Window;

const HEADER_V4: usize = 16;
const HEADER_V5: usize = 56;
const CRC_OFFSET: usize = 52;
const POINTER: usize = 4;
/// No block, as a sibling.
const NULL: u32 = u32::MAX;
/// More levels than any tree of a group needs: a node has at least 40 children.
const MAX_LEVELS: u32 = 10;
/// Blocks of a tree that are remembered, 16 MiB of numbers.
const MAX_BLOCKS: usize = 4 << 20;

/// What tells the trees apart.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) magic_v4: [u8; 4],
    pub(super) magic_v5: [u8; 4],
    /// Bytes of a record.
    pub(super) record: usize,
    /// Bytes of a key.
    pub(super) key: usize,
    /// What records and keys are sorted by.
    pub(super) order: fn(&[u8]) -> u64,
}

/// Free extents by place.
pub(super) const BY_BLOCK: Kind = Kind {
    name: "XFS free space tree by block",
    magic_v4: *b"ABTB",
    magic_v5: *b"AB3B",
    record: 8,
    key: 8,
    order: |bytes| be32(bytes, 0).into(),
};

/// Free extents by length.
pub(super) const BY_LENGTH: Kind = Kind {
    name: "XFS free space tree by length",
    magic_v4: *b"ABTC",
    magic_v5: *b"AB3C",
    record: 8,
    key: 8,
    order: |bytes| u64::from(be32(bytes, 4)) << 32 | u64::from(be32(bytes, 0)),
};

/// Chunks of inodes.
pub(super) const INODES: Kind = Kind {
    name: "XFS inode tree",
    magic_v4: *b"IABT",
    magic_v5: *b"IAB3",
    record: 16,
    key: 4,
    order: |bytes| be32(bytes, 0).into(),
};

/// Is given the records of a tree.
type Visit<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Corrupt>;

/// One tree of a group.
pub(super) struct Tree<'a> {
    window: &'a Window<'a>,
    geometry: &'a Geometry,
    kind: &'static Kind,
    group: u32,
    /// The last block visited on each level and the right sibling it names.
    last: Vec<Option<(u32, u32)>>,
    last_order: Option<u64>,
    /// All blocks of the tree, in the order of the walk.
    pub(super) blocks: Vec<u32>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        window: &'a Window<'a>,
        geometry: &'a Geometry,
        kind: &'static Kind,
        group: u32,
    ) -> Self {
        Self {
            window,
            geometry,
            kind,
            group,
            last: Vec::new(),
            last_order: None,
            blocks: Vec::new(),
        }
    }

    /// Visits all records of the tree of `levels` levels under `root`.
    pub(super) fn walk(&mut self, root: u32, levels: u32, visit: Visit<'_>) -> Result<(), Fault> {
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(self.fault(root, self.problem("has an impossible number of levels")));
        }
        self.last = vec![None; usize::try_from(levels).unwrap_or_default()];
        self.descend(root, levels.saturating_sub(1), None, visit)?;
        if let Some(&(block, _)) = self.last.iter().flatten().find(|(_, right)| *right != NULL) {
            return Err(self.fault(block, self.problem("has a sibling that is not in it")));
        }
        Ok(())
    }

    fn descend(
        &mut self,
        block: u32,
        level: u32,
        key: Option<u64>,
        visit: Visit<'_>,
    ) -> Result<(), Fault> {
        let bytes = self.read(block, level)?;
        let header = if self.geometry.features.is_v5() {
            HEADER_V5
        } else {
            HEADER_V4
        };
        let body = bytes.get(header..).unwrap_or_default();
        let count = be32(&bytes, 4) & 0xffff;
        let count = usize::try_from(count).unwrap_or_default();
        let entry = if level == 0 {
            self.kind.record
        } else {
            self.kind.key.saturating_add(POINTER)
        };
        let capacity = body.len().checked_div(entry).unwrap_or_default();
        let may_be_empty = level == 0 && self.last.len() == 1;
        if count > capacity || (count == 0 && !may_be_empty) {
            return Err(self.fault(block, self.problem("has a bad number of records")));
        }
        let order = self.kind.order;
        let mismatch = |first: &[u8]| key.is_some_and(|key| key != order(first));
        if level == 0 {
            let mut records = body.chunks_exact(self.kind.record).take(count).peekable();
            if records.peek().is_some_and(|first| mismatch(first)) {
                return Err(self.fault(block, self.problem("has a key that is not its child's")));
            }
            for record in records {
                let at = order(record);
                if self.last_order.is_some_and(|last| last >= at) {
                    return Err(self.fault(block, self.problem("is not sorted")));
                }
                self.last_order = Some(at);
                visit(record).map_err(|kind| self.fault(block, kind))?;
            }
            return Ok(());
        }
        // All keys that fit come first, then all pointers that fit.
        let split = capacity.saturating_mul(self.kind.key);
        let (keys, pointers) = body.split_at_checked(split).unwrap_or_default();
        let keys = keys.chunks_exact(self.kind.key);
        let pointers = pointers.chunks_exact(POINTER);
        for (index, (child_key, pointer)) in keys.zip(pointers).take(count).enumerate() {
            if index == 0 && mismatch(child_key) {
                return Err(self.fault(block, self.problem("has a key that is not its child's")));
            }
            let child = be32(pointer, 0);
            self.descend(
                child,
                level.saturating_sub(1),
                Some(order(child_key)),
                visit,
            )?;
        }
        Ok(())
    }

    /// Reads a block of the tree and checks its header.
    fn read(&mut self, block: u32, level: u32) -> Result<Vec<u8>, Fault> {
        let at = self.geometry.offset(self.group, block);
        if block >= self.geometry.group_blocks(self.group) {
            let kind = Corrupt::Outside {
                structure: self.kind.name,
                block: block.into(),
            };
            return Err(self.window.fault(at, kind));
        }
        let mut bytes = vec![0; usize::try_from(self.geometry.block_size).unwrap_or_default()];
        self.window.read(&mut bytes, at)?;
        let is_v5 = self.geometry.features.is_v5();
        if is_v5 && !crc_matches(&bytes, CRC_OFFSET) {
            let kind = Corrupt::Checksum {
                structure: self.kind.name,
                number: block.into(),
            };
            return Err(self.window.fault(at, kind));
        }
        let magic = if is_v5 {
            self.kind.magic_v5
        } else {
            self.kind.magic_v4
        };
        if !bytes.starts_with(&magic) {
            return Err(self.fault(block, self.problem("has a bad magic number")));
        }
        if be32(&bytes, 4) >> 16 != level {
            return Err(self.fault(block, self.problem("has a bad level")));
        }
        if is_v5 {
            let place = u64::from(be32(&bytes, 16)) << 32 | u64::from(be32(&bytes, 20));
            let is_own = place == at / 512
                && bytes.get(32..48) == Some(&self.geometry.meta_uuid)
                && be32(&bytes, 48) == self.group;
            if !is_own {
                return Err(self.fault(block, self.problem("has a block from elsewhere")));
            }
        }
        let (left, right) = (be32(&bytes, 8), be32(&bytes, 12));
        let last = usize::try_from(level)
            .ok()
            .and_then(|level| self.last.get_mut(level));
        let joined = last.is_some_and(|last| {
            let joined = match *last {
                Some((before, its_right)) => left == before && its_right == block,
                None => left == NULL,
            };
            *last = Some((block, right));
            joined
        });
        if !joined {
            return Err(self.fault(block, self.problem("has siblings that do not fit")));
        }
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(self.fault(block, self.problem("has too many blocks")));
        }
        self.blocks.push(block);
        Ok(bytes)
    }

    fn problem(&self, problem: &'static str) -> Corrupt {
        Corrupt::Structure {
            structure: self.kind.name,
            problem,
        }
    }

    fn fault(&self, block: u32, kind: Corrupt) -> Fault {
        self.window
            .fault(self.geometry.offset(self.group, block), kind)
    }
}
