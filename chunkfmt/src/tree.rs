//! The BLAKE3 tree of an object, cut so that it travels in datagrams.
//!
//! An object is a whole number of 1 KiB blocks, and a block is exactly one leaf ("chunk") of the BLAKE3 tree
//! (BLAKE3 paper, section 2.1), so every aligned run of blocks has a chaining value of its own that leads to the
//! object's root. A *node* here is one datagram's worth of chaining values:
//!
//! | level | children of a node | a node covers |
//! |---|---|---|
//! | 0 | 16 blocks | one group, 16 KiB |
//! | 1 | 32 groups | 512 KiB |
//! | 2 | 32 nodes of level 1 | 16 MiB |
//! | 3.. | 32 nodes of the level below | 32 times as much |
//!
//! The top node merges to the root, every other one to a chaining value that stands in its parent: each node, and
//! then each group, is checked on its own when it arrives. Level 0 is asked for only when a group fails, to tell
//! the right blocks from the wrong ones.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::{BLOCK_SIZE, GROUP_BLOCKS};

/// A BLAKE3 chaining value or root hash.
pub type Cv = [u8; 32];

/// Most children a node has; their chaining values fill one block.
pub const NODE_CHILDREN: u32 = 32;

/// Names one node of an object's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Distance from the blocks: 0 holds block values, 1 group values.
    pub level: u8,
    /// Position from the left within the level.
    pub index: u32,
}

/// The shape of the tree over a given number of blocks: what nodes there are and what they cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    blocks: u32,
}

/// How many blocks one child of a node at `level` covers.
fn child_span(level: u8) -> u64 {
    match level {
        0 => 1,
        _ => u64::from(GROUP_BLOCKS)
            .saturating_mul(u64::from(NODE_CHILDREN).saturating_pow(u32::from(level) - 1)),
    }
}

/// How many blocks a whole node at `level` covers.
fn node_span(level: u8) -> u64 {
    child_span(level.saturating_add(1))
}

impl Shape {
    /// The tree over `blocks` blocks; `None` for an empty object, which has no tree.
    pub fn new(blocks: u32) -> Option<Self> {
        (blocks > 0).then_some(Self { blocks })
    }

    /// Blocks of the object.
    pub fn blocks(self) -> u32 {
        self.blocks
    }

    /// Groups of 16 blocks, the last one maybe shorter.
    pub fn groups(self) -> u32 {
        self.blocks.div_ceil(GROUP_BLOCKS)
    }

    /// Blocks of one group: 16, or fewer in the last one. Zero for a group that does not exist.
    pub fn group_blocks(self, group: u32) -> u32 {
        let first = u64::from(group) * u64::from(GROUP_BLOCKS);
        u64::from(self.blocks)
            .saturating_sub(first)
            .min(u64::from(GROUP_BLOCKS))
            .try_into()
            .unwrap_or(GROUP_BLOCKS)
    }

    /// The level of the one node that covers the whole object.
    pub fn top_level(self) -> u8 {
        let mut level = 0;
        while node_span(level) < u64::from(self.blocks) {
            level += 1;
        }
        level
    }

    /// The node that covers the whole object and merges to its root.
    pub fn top(self) -> NodeId {
        NodeId {
            level: self.top_level(),
            index: 0,
        }
    }

    /// Number of nodes at `level`; zero above the top.
    pub fn nodes(self, level: u8) -> u32 {
        if level > self.top_level() {
            return 0;
        }
        u64::from(self.blocks)
            .div_ceil(node_span(level))
            .try_into()
            .unwrap_or(u32::MAX)
    }

    /// Number of children of `node`, `None` if the object has no such node.
    pub fn children(self, node: NodeId) -> Option<u32> {
        if node.index >= self.nodes(node.level) {
            return None;
        }
        let covered = u64::from(self.blocks) - u64::from(node.index) * node_span(node.level);
        let children = covered
            .min(node_span(node.level))
            .div_ceil(child_span(node.level));
        u32::try_from(children).ok()
    }

    /// Where the chaining value of `node` stands: its parent and the child's place in it. `None` for the top.
    pub fn parent(self, node: NodeId) -> Option<(NodeId, u32)> {
        if node.level >= self.top_level() {
            return None;
        }
        let level = node.level + 1;
        let (index, slot) = (node.index / NODE_CHILDREN, node.index % NODE_CHILDREN);
        Some((NodeId { level, index }, slot))
    }

    /// Where the chaining value of `group` stands; `None` when the object is one group, checked against the root.
    pub fn group_parent(self, group: u32) -> Option<(NodeId, u32)> {
        self.parent(NodeId {
            level: 0,
            index: group,
        })
    }

    /// The nodes of level 1 and up, top first, each level from the left: what a receiver needs to check groups.
    pub fn proof_nodes(self) -> impl Iterator<Item = NodeId> {
        (1..=self.top_level())
            .rev()
            .flat_map(move |level| (0..self.nodes(level)).map(move |index| NodeId { level, index }))
    }

    /// The value that `children` of `node` merge to: the root for the top node, a chaining value otherwise.
    ///
    /// `None` when the number of children is not the one that this node has, or there is nothing to merge
    /// (a one-block object is checked with [`Shape::group_value`]).
    pub fn merge(self, node: NodeId, children: &[Cv]) -> Option<Cv> {
        let count = usize::try_from(self.children(node)?).ok()?;
        if children.len() != count {
            return None;
        }
        let top = node == self.top();
        match children {
            [] => None,
            [only] => (!top).then_some(*only),
            _ => Some(merge(children, top)),
        }
    }

    /// The value of a group's bytes: the root if the object is one group, a chaining value otherwise.
    pub fn group_value(self, group: u32, bytes: &[u8]) -> Cv {
        if self.groups() == 1 {
            return *blake3::hash(bytes).as_bytes();
        }
        subtree_value(u64::from(group) * u64::from(GROUP_BLOCKS), bytes)
    }

    /// The value of one block's bytes as it stands in a node of level 0; the root for a one-block object.
    pub fn block_value(self, block: u32, bytes: &[u8]) -> Cv {
        if self.blocks == 1 {
            return *blake3::hash(bytes).as_bytes();
        }
        subtree_value(u64::from(block), bytes)
    }
}

fn subtree_value(first_block: u64, bytes: &[u8]) -> Cv {
    let offset = first_block * BLOCK_SIZE as u64;
    blake3::Hasher::new()
        .set_input_offset(offset)
        .update(bytes)
        .finalize_non_root()
}

/// Merges two or more sibling values as BLAKE3 does: the left subtree takes the largest power of two.
fn merge(children: &[Cv], root: bool) -> Cv {
    if let [only] = children {
        return *only;
    }
    let left = children.len().next_power_of_two() / 2;
    let (left, right) = (
        merge(&children[..left], false),
        merge(&children[left..], false),
    );
    if root {
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

/// The values of all subtrees of an object that hang off the path to its first group, from the left.
///
/// With them the object's root follows from its first 16 blocks alone: [`root_of_first_group`]. So a chunk is hashed
/// once, and both its digest (with parts of its header block left out) and its root are known.
pub(crate) fn siblings_of_first_group(object: &[u8]) -> Vec<Cv> {
    let group = BLOCK_SIZE * GROUP_BLOCKS as usize;
    let mut values = Vec::new();
    let mut at = group;
    // BLAKE3's left subtree is the largest power of two, so the siblings double in size from the left.
    while let Some(rest) = object.get(at..).filter(|rest| !rest.is_empty()) {
        let subtree = rest.get(..at).unwrap_or(rest);
        values.push(subtree_value((at / BLOCK_SIZE) as u64, subtree));
        at = at.saturating_mul(2);
    }
    values
}

/// The root of an object from its first group (16 blocks, or all that it has) and [`siblings_of_first_group`].
pub(crate) fn root_of_first_group(group: &[u8], siblings: &[Cv]) -> Cv {
    let Some((last, inner)) = siblings.split_last() else {
        return *blake3::hash(group).as_bytes();
    };
    let left = inner.iter().fold(subtree_value(0, group), |left, right| {
        merge_subtrees_non_root(&left, right, Mode::Hash)
    });
    *merge_subtrees_root(&left, last, Mode::Hash).as_bytes()
}

/// All chaining values of one object from level 1 up, as its sender keeps them.
#[derive(Clone, Debug)]
pub struct Tree {
    shape: Shape,
    root: Cv,
    /// `levels[i]` holds the children of all nodes of level `i + 1`, from the left.
    levels: Vec<Vec<Cv>>,
}

impl Tree {
    /// Hashes an object. `None` unless it is a whole, non-zero number of blocks (at most 2^32 - 1).
    pub fn build(object: &[u8]) -> Option<Self> {
        if !object.len().is_multiple_of(BLOCK_SIZE) {
            return None;
        }
        let shape = Shape::new(u32::try_from(object.len() / BLOCK_SIZE).ok()?)?;
        if shape.top_level() == 0 {
            return Some(Self {
                shape,
                root: *blake3::hash(object).as_bytes(),
                levels: Vec::new(),
            });
        }
        let groups = object.chunks(BLOCK_SIZE * GROUP_BLOCKS as usize);
        let mut values: Vec<Cv> = (0..)
            .zip(groups)
            .map(|(group, bytes)| shape.group_value(group, bytes))
            .collect();
        let mut levels = Vec::new();
        for level in 1..=shape.top_level() {
            let parents = (0..shape.nodes(level))
                .zip(values.chunks(NODE_CHILDREN as usize))
                .filter_map(|(index, children)| shape.merge(NodeId { level, index }, children))
                .collect();
            levels.push(std::mem::replace(&mut values, parents));
        }
        let root = *values.first()?;
        Some(Self {
            shape,
            root,
            levels,
        })
    }

    /// The object's root: its plain BLAKE3 hash.
    pub fn root(&self) -> Cv {
        self.root
    }

    /// The tree's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The children of `node`. Level 0 is not kept: it is hashed from the object's bytes, which must be those that
    /// the tree was built from. `None` if there is no such node.
    pub fn node(&self, object: &[u8], node: NodeId) -> Option<Vec<Cv>> {
        let count = usize::try_from(self.shape.children(node)?).ok()?;
        let index = usize::try_from(node.index).ok()?;
        let Some(level) = usize::from(node.level).checked_sub(1) else {
            let first = index.checked_mul(GROUP_BLOCKS as usize)?;
            let blocks = object.chunks(BLOCK_SIZE).skip(first).take(count);
            let number = u32::try_from(first).ok()?;
            return Some(
                (number..)
                    .zip(blocks)
                    .map(|(block, bytes)| self.shape.block_value(block, bytes))
                    .collect(),
            );
        };
        let first = index.checked_mul(NODE_CHILDREN as usize)?;
        self.levels
            .get(level)?
            .get(first..first.checked_add(count)?)
            .map(<[Cv]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(blocks: u32) -> Vec<u8> {
        (0..blocks as usize * BLOCK_SIZE)
            .map(|i| (i / 7 + i / 1024 * 31).to_le_bytes()[0])
            .collect()
    }

    #[test]
    fn root_is_the_plain_hash_whatever_the_size() {
        for blocks in (1..70).chain([
            511, 512, 513, 528, 529, 1024, 2064, 2065, 16384, 16385, 17000,
        ]) {
            let object = object(blocks);
            let tree = Tree::build(&object).unwrap();
            assert_eq!(
                tree.root(),
                *blake3::hash(&object).as_bytes(),
                "{blocks} blocks"
            );
        }
    }

    #[test]
    fn the_root_follows_from_the_first_group() {
        for blocks in (1..70).chain([127, 128, 129, 511, 512, 513, 1024, 1025, 2048, 2081, 2082]) {
            let object = object(blocks);
            let group = &object[..object.len().min(16 * BLOCK_SIZE)];
            assert_eq!(
                root_of_first_group(group, &siblings_of_first_group(&object)),
                *blake3::hash(&object).as_bytes(),
                "{blocks} blocks"
            );
        }
    }

    #[test]
    fn every_node_checks_against_its_parent_and_every_block_against_its_node() {
        for blocks in [2, 15, 16, 17, 33, 512, 513, 600, 2065, 16385] {
            let object = object(blocks);
            let tree = Tree::build(&object).unwrap();
            let shape = tree.shape();
            let expected = |node: NodeId| match shape.parent(node) {
                None => tree.root(),
                Some((parent, slot)) => tree.node(&object, parent).unwrap()[slot as usize],
            };
            for level in 0..=shape.top_level() {
                for index in 0..shape.nodes(level) {
                    let node = NodeId { level, index };
                    let children = tree.node(&object, node).unwrap();
                    if blocks > 1 {
                        assert_eq!(
                            shape.merge(node, &children),
                            Some(expected(node)),
                            "{blocks} blocks, {node:?}"
                        );
                    }
                    if level == 0 {
                        let first = index * GROUP_BLOCKS;
                        let start = first as usize * BLOCK_SIZE;
                        let end = start + shape.group_blocks(index) as usize * BLOCK_SIZE;
                        assert_eq!(
                            shape.group_value(index, &object[start..end]),
                            expected(node)
                        );
                    }
                }
                assert!(
                    tree.node(
                        &object,
                        NodeId {
                            level,
                            index: shape.nodes(level)
                        }
                    )
                    .is_none()
                );
            }
            assert_eq!(shape.nodes(shape.top_level()), 1);
            assert_eq!(shape.nodes(shape.top_level() + 1), 0);
            assert_eq!(shape.parent(shape.top()), None);
        }
    }

    #[test]
    fn a_changed_child_changes_the_value() {
        let object = object(600);
        let tree = Tree::build(&object).unwrap();
        let top = tree.shape().top();
        let mut children = tree.node(&object, top).unwrap();
        children[1][5] ^= 1;
        assert_ne!(tree.shape().merge(top, &children), Some(tree.root()));
        children.pop();
        assert_eq!(
            tree.shape().merge(top, &children),
            None,
            "wrong number of children"
        );
    }

    #[test]
    fn odd_lengths_have_no_tree() {
        assert!(Tree::build(&[]).is_none());
        assert!(Tree::build(&[0; 1000]).is_none());
        assert!(Shape::new(0).is_none());
    }

    #[test]
    fn the_largest_object_has_a_shape() {
        let shape = Shape::new(u32::MAX).unwrap();
        assert_eq!(shape.nodes(shape.top_level()), 1);
        assert_eq!(shape.group_blocks(shape.groups() - 1), 15);
        assert_eq!(
            shape.children(NodeId {
                level: 0,
                index: shape.groups() - 1
            }),
            Some(15)
        );
    }
}
