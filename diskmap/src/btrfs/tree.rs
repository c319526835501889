//! Walks over Btrfs trees, in the order of their keys.
//!
//! Every node must be what its parent says: place, generation, level, first key, and all keys
//! before those of the next sibling. So no node is met twice in one walk, and a walk ends.

use std::ops::RangeInclusive;

use super::chunk::Chunks;
use super::node::{self, Content, Key, Root};
use super::superblock::{LEVELS, Superblock};
use super::{NAME, NODE};
use crate::Cause;
use crate::error::{Corrupt, Fault, Incompatible};
use crate::source::Window;

/// Nodes that are read of one filesystem: 32 MiB of addresses, 64 GiB of nodes of 16 KiB.
const MAX_NODES: usize = 4 << 20;

/// What trees are read with.
pub(super) struct Reader<'a> {
    window: &'a Window<'a>,
    superblock: &'a Superblock,
    chunk_tree_uuid: Option<[u8; 16]>,
    /// Where the nodes that were read lie, in bytes of the window.
    nodes: Vec<u64>,
}

/// Takes an item: its key and its data.
pub(super) type Visit<'v> = dyn FnMut(Key, &[u8]) -> Result<(), Cause> + 'v;

/// One walk.
struct Walk<'w, 'v> {
    chunks: &'w Chunks,
    owner: u64,
    keys: RangeInclusive<Key>,
    visit: &'w mut Visit<'v>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(window: &'a Window<'a>, superblock: &'a Superblock) -> Self {
        Self {
            window,
            superblock,
            chunk_tree_uuid: None,
            nodes: Vec::new(),
        }
    }

    /// Calls `visit` for every item of the tree with the number `owner` whose key is in `keys`.
    pub(super) fn walk(
        &mut self,
        chunks: &Chunks,
        owner: u64,
        root: Root,
        keys: RangeInclusive<Key>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let mut walk = Walk {
            chunks,
            owner,
            keys,
            visit,
        };
        if root.level >= LEVELS {
            let kind = Corrupt::Field {
                structure: NODE,
                field: "level",
                value: root.level.into(),
            };
            return Err(self.window.fault(0, kind));
        }
        self.descend(&mut walk, root, None, None)
    }

    /// A finding that concerns no node in particular.
    pub(super) fn fault(&self, cause: Cause) -> Fault {
        let at = self.nodes.last().copied().unwrap_or_default();
        self.window.fault(at, cause)
    }

    /// Places of all nodes that were read.
    pub(super) fn into_nodes(self) -> Vec<u64> {
        self.nodes
    }

    /// Visits a node whose keys begin with `first` and end before `end`. The level bounds the
    /// depth.
    fn descend(
        &mut self,
        walk: &mut Walk<'_, '_>,
        node: Root,
        first: Option<Key>,
        end: Option<Key>,
    ) -> Result<(), Fault> {
        let size = self.superblock.nodesize;
        let place = walk.chunks.physical(node.bytenr, size.into());
        let place = place.ok_or_else(|| {
            let kind = Corrupt::Outside {
                structure: "pointer of a Btrfs tree",
                block: node.bytenr,
            };
            self.window.fault(0, kind)
        })?;
        let fault = |cause: Cause| self.window.fault(place, cause);
        if self.nodes.len() >= MAX_NODES {
            let kind = Incompatible::Unsupported {
                filesystem: NAME,
                what: "has more nodes in its trees than are read",
            };
            return Err(fault(kind.into()));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.window.read(&mut bytes, place)?;
        let parsed = node::parse(&bytes, self.superblock, node, walk.owner)
            .map_err(|kind| fault(kind.into()))?;
        let uuid = self.chunk_tree_uuid.get_or_insert(parsed.chunk_tree_uuid);
        let problem = |problem| {
            let kind = Corrupt::Structure {
                structure: NODE,
                problem,
            };
            self.window.fault(place, kind)
        };
        if *uuid != parsed.chunk_tree_uuid {
            return Err(problem("has another chunk_tree_uuid than the others"));
        }
        self.nodes.push(place);
        let keys = match &parsed.content {
            Content::Leaf(items) => items.first().zip(items.last()).map(|(a, b)| (a.0, b.0)),
            Content::Internal(list) => list.first().zip(list.last()).map(|(a, b)| (a.key, b.key)),
        };
        match (keys, first) {
            (Some((lowest, _)), Some(first)) if lowest != first => {
                return Err(problem("has another first key than its parent says"));
            }
            (None, Some(_)) => return Err(problem("is empty")),
            _ => {}
        }
        if keys
            .zip(end)
            .is_some_and(|((_, highest), end)| highest >= end)
        {
            return Err(problem("has keys of its sibling"));
        }
        match parsed.content {
            Content::Leaf(items) => {
                for (key, range) in items {
                    if walk.keys.contains(&key) {
                        let data = node::item_data(&bytes, range);
                        (walk.visit)(key, data).map_err(|cause| self.window.fault(place, cause))?;
                    }
                }
            }
            Content::Internal(children) => {
                drop(bytes);
                let ends = children.iter().skip(1).map(|next| Some(next.key));
                for (child, next) in children.iter().zip(ends.chain([end])) {
                    let before = next.is_some_and(|next| next <= *walk.keys.start());
                    if !before && child.key <= *walk.keys.end() {
                        self.descend(walk, child.node, Some(child.key), next)?;
                    }
                }
            }
        }
        Ok(())
    }
}
