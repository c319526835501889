//! One object being received: its buffer, and what of it is proven.
//!
//! Blocks are kept as they come and checked by the group of 16 as soon as the group is full and its chaining value is
//! known. A group that fails becomes *suspect*: its level 0 node is asked for, which tells the true blocks from the
//! false ones, and from then on each of its blocks is checked before it is kept. So a forged block costs its group one
//! more proof, and never keeps the true one out.
//!
//! Memory: the object's bytes and two bits per block, its nodes of level 1 and up (32 bytes per group), at most
//! [`MAX_HELD`] nodes waiting for their parent, and 512 bytes for each suspect group.

use std::collections::BTreeMap;

use chunkfmt::tree::{Cv, NODE_CHILDREN, NodeId, Shape};
use chunkfmt::{BLOCK_SIZE, GROUP_BLOCKS};

use crate::ObjectInfo;
use crate::bits::Bits;
use crate::layout::{Layout, Unit};

/// Nodes kept that cannot be checked yet because their parent is missing.
const MAX_HELD: usize = 16;

/// What became of a block or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Kept.
    New,
    /// Kept before, or of no use now.
    Duplicate,
    /// Kept, but now its group is known to hold something false; see [`Incoming::missing`].
    Suspect,
    /// Proven false.
    Forged,
    /// The object has no such block or node.
    Impossible,
}

#[derive(Debug)]
pub(super) struct Incoming {
    layout: Layout,
    root: Cv,
    bytes: Vec<u8>,
    /// Blocks that are there, true or not yet known to be false.
    have: Bits,
    /// Groups proven.
    proven: Bits,
    /// Blocks of these.
    proven_blocks: u32,
    /// Children of the nodes of level 1 and up that are proven.
    nodes: BTreeMap<NodeId, Vec<Cv>>,
    held: Vec<(NodeId, Vec<Cv>)>,
    /// Groups with something false in them, and their blocks' values once these are proven.
    suspects: BTreeMap<u32, Option<Vec<Cv>>>,
    forged: u64,
}

impl Incoming {
    /// An empty object; allocates its buffer. `None` if the size is none that an object has.
    pub(super) fn new(info: &ObjectInfo) -> Option<Self> {
        let layout = Layout::new(info.blocks)?;
        let bytes = usize::try_from(info.blocks).ok()?.checked_mul(BLOCK_SIZE)?;
        Some(Self {
            layout,
            root: info.root,
            bytes: vec![0; bytes],
            have: Bits::new(info.blocks),
            proven: Bits::new(layout.shape().groups()),
            proven_blocks: 0,
            nodes: BTreeMap::new(),
            held: Vec::new(),
            suspects: BTreeMap::new(),
            forged: 0,
        })
    }

    /// Blocks of the object.
    pub(super) fn blocks(&self) -> u32 {
        self.layout.shape().blocks()
    }

    /// Blocks that are not there.
    pub(super) fn blocks_missing(&self) -> u32 {
        self.blocks() - self.have.count()
    }

    /// Blocks of the groups that are proven.
    pub(super) fn proven_blocks(&self) -> u32 {
        self.proven_blocks
    }

    /// Blocks and nodes found false so far.
    pub(super) fn forged(&self) -> u64 {
        self.forged
    }

    /// Whether every block is proven.
    pub(super) fn is_complete(&self) -> bool {
        self.proven.is_full()
    }

    /// The bytes of a complete object.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes a block.
    pub(super) fn block(&mut self, block: u32, payload: &[u8; BLOCK_SIZE]) -> Outcome {
        if block >= self.blocks() {
            return Outcome::Impossible;
        }
        if self.have.get(block) {
            return Outcome::Duplicate;
        }
        let group = block / GROUP_BLOCKS;
        if let Some(Some(values)) = self.suspects.get(&group) {
            let value = self.shape().block_value(block, payload);
            if values.get((block % GROUP_BLOCKS) as usize) != Some(&value) {
                self.forged += 1;
                return Outcome::Forged;
            }
        }
        let start = block as usize * BLOCK_SIZE;
        self.bytes[start..start + BLOCK_SIZE].copy_from_slice(payload);
        self.have.set(block);
        self.check_group(group)
    }

    /// Takes the children of a node: at least as many values as it has, of which the first ones count.
    pub(super) fn node(&mut self, node: NodeId, payload: &[u8; BLOCK_SIZE]) -> Outcome {
        let Some(count) = self.shape().children(node) else {
            return Outcome::Impossible;
        };
        let (values, _) = payload.as_chunks();
        let Some(values) = values.get(..count as usize) else {
            return Outcome::Impossible;
        };
        let useful = match node.level {
            0 => matches!(self.suspects.get(&node.index), Some(None)),
            _ => !self.nodes.contains_key(&node),
        };
        if !useful || self.blocks() == 1 {
            return Outcome::Duplicate;
        }
        match self.value(node) {
            None if self.held.len() >= MAX_HELD
                || self
                    .held
                    .iter()
                    .any(|held| held.0 == node && held.1 == values) =>
            {
                Outcome::Duplicate
            }
            None => {
                self.held.push((node, values.to_vec()));
                Outcome::New
            }
            Some(value) if self.shape().merge(node, values) != Some(value) => {
                self.forged += 1;
                Outcome::Forged
            }
            Some(_) => self.proven_node(node, values.to_vec()),
        }
    }

    /// What has to be asked for, in the order of sending: blocks that are not there, nodes of level 1 and up that are
    /// not known, level 0 nodes of suspect groups. Nodes come first.
    pub(super) fn missing(&self) -> impl Iterator<Item = Unit> + '_ {
        let held = |node: &NodeId| self.held.iter().any(|(other, _)| other == node);
        let nodes = self
            .shape()
            .proof_nodes()
            .filter(move |node| !self.nodes.contains_key(node) && !held(node));
        let leaves = self.suspects.iter().filter(|(_, values)| values.is_none());
        let leaves = leaves.map(|(&index, _)| NodeId { level: 0, index });
        let blocks = std::iter::successors(self.have.next_clear(0), |&block| {
            self.have.next_clear(block + 1)
        });
        nodes
            .chain(leaves)
            .map(Unit::Node)
            .chain(blocks.map(Unit::Block))
    }

    fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// What a node or group has to merge to, if that is known.
    fn value(&self, node: NodeId) -> Option<Cv> {
        match self.shape().parent(node) {
            None => Some(self.root),
            Some((parent, slot)) => self.nodes.get(&parent)?.get(slot as usize).copied(),
        }
    }

    fn group_range(&self, group: u32) -> std::ops::Range<u32> {
        let first = group * GROUP_BLOCKS;
        first..first + self.shape().group_blocks(group)
    }

    /// Proves a group if it is full and its value is known.
    fn check_group(&mut self, group: u32) -> Outcome {
        let range = self.group_range(group);
        if !range.clone().all(|block| self.have.get(block)) || self.proven.get(group) {
            return Outcome::New;
        }
        let Some(value) = self.value(NodeId {
            level: 0,
            index: group,
        }) else {
            return Outcome::New;
        };
        let bytes = &self.bytes[range.start as usize * BLOCK_SIZE..range.end as usize * BLOCK_SIZE];
        if self.shape().group_value(group, bytes) == value {
            self.proven.set(group);
            self.proven_blocks += range.end - range.start;
            self.suspects.remove(&group);
            return Outcome::New;
        }
        if range.len() == 1 {
            // Its one block is the false one: no level 0 node is needed to tell.
            self.have.clear(range.start);
            self.forged += 1;
            return Outcome::Forged;
        }
        self.suspects.insert(group, None);
        Outcome::Suspect
    }

    fn proven_node(&mut self, node: NodeId, values: Vec<Cv>) -> Outcome {
        if node.level == 0 {
            return self.proven_leaves(node.index, values);
        }
        self.nodes.insert(node, values);
        let children =
            node.index * NODE_CHILDREN..node.index.saturating_add(1).saturating_mul(NODE_CHILDREN);
        if node.level == 1 {
            let groups = children.start..children.end.min(self.shape().groups());
            let suspect = groups
                .filter(|&group| self.check_group(group) == Outcome::Suspect)
                .count();
            return if suspect > 0 {
                Outcome::Suspect
            } else {
                Outcome::New
            };
        }
        let is_child = |held: &mut (NodeId, Vec<Cv>)| {
            held.0.level + 1 == node.level && children.contains(&held.0.index)
        };
        let waiting: Vec<_> = self.held.extract_if(.., is_child).collect();
        let mut outcome = Outcome::New;
        for (child, values) in waiting {
            if self.value(child) == self.shape().merge(child, &values)
                && !self.nodes.contains_key(&child)
            {
                if self.proven_node(child, values) == Outcome::Suspect {
                    outcome = Outcome::Suspect;
                }
            } else {
                self.forged += 1;
            }
        }
        outcome
    }

    /// Sorts the blocks of a suspect group.
    fn proven_leaves(&mut self, group: u32, values: Vec<Cv>) -> Outcome {
        for (block, value) in self.group_range(group).zip(&values) {
            let start = block as usize * BLOCK_SIZE;
            let bytes = &self.bytes[start..start + BLOCK_SIZE];
            if self.have.get(block) && self.shape().block_value(block, bytes) != *value {
                self.have.clear(block);
                self.forged += 1;
            }
        }
        self.suspects.insert(group, Some(values));
        match self.check_group(group) {
            Outcome::New if !self.proven.get(group) => Outcome::Suspect,
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkfmt::tree::Tree;
    use proptest::prelude::*;

    struct Sent {
        bytes: Vec<u8>,
        tree: Tree,
        layout: Layout,
    }

    fn sent(blocks: u32) -> Sent {
        let mut bytes = vec![0; blocks as usize * BLOCK_SIZE];
        fastrand::Rng::with_seed(u64::from(blocks)).fill(&mut bytes);
        let tree = Tree::build(&bytes).unwrap();
        Sent {
            bytes,
            tree,
            layout: Layout::new(blocks).unwrap(),
        }
    }

    impl Sent {
        fn incoming(&self) -> Incoming {
            Incoming::new(&ObjectInfo {
                blocks: self.layout.shape().blocks(),
                root: self.tree.root(),
                parity: None,
            })
            .unwrap()
        }

        fn give(&self, incoming: &mut Incoming, unit: Unit, forged: bool) -> Outcome {
            let mut payload = [0; BLOCK_SIZE];
            match unit {
                Unit::Block(block) => {
                    payload
                        .copy_from_slice(&self.bytes[block as usize * BLOCK_SIZE..][..BLOCK_SIZE]);
                    payload[5] ^= u8::from(forged);
                    incoming.block(block, &payload)
                }
                Unit::Node(node) => {
                    let children = self.tree.node(&self.bytes, node).unwrap();
                    payload[..children.len() * 32].copy_from_slice(children.as_flattened());
                    payload[5] ^= u8::from(forged);
                    incoming.node(node, &payload)
                }
            }
        }
    }

    #[test]
    fn one_forged_block_costs_one_proof_and_itself() {
        let sent = sent(600);
        let mut incoming = sent.incoming();
        for number in 0..sent.layout.whole() {
            let unit = sent.layout.unit(number).unwrap();
            let outcome = sent.give(&mut incoming, unit, unit == Unit::Block(21));
            let expected = if unit == Unit::Block(31) {
                Outcome::Suspect
            } else {
                Outcome::New
            };
            assert_eq!(outcome, expected, "{unit:?}");
        }
        let leaf = Unit::Node(NodeId { level: 0, index: 1 });
        assert_eq!(incoming.missing().collect::<Vec<_>>(), [leaf]);
        assert_eq!(sent.give(&mut incoming, leaf, true), Outcome::Forged);
        assert_eq!(sent.give(&mut incoming, leaf, false), Outcome::Suspect);
        assert_eq!(incoming.missing().collect::<Vec<_>>(), [Unit::Block(21)]);
        assert_eq!(
            sent.give(&mut incoming, Unit::Block(21), true),
            Outcome::Forged
        );
        assert!(!incoming.is_complete());
        assert_eq!(
            sent.give(&mut incoming, Unit::Block(21), false),
            Outcome::New
        );
        assert!(incoming.is_complete());
        assert_eq!(incoming.forged(), 3);
        assert_eq!(incoming.into_bytes(), sent.bytes);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let sent = sent(17);
        let mut incoming = sent.incoming();
        assert_eq!(incoming.block(17, &[0; BLOCK_SIZE]), Outcome::Impossible);
        assert_eq!(
            incoming.node(NodeId { level: 1, index: 1 }, &[0; BLOCK_SIZE]),
            Outcome::Impossible
        );
        assert_eq!(
            incoming.node(
                NodeId {
                    level: 200,
                    index: 0
                },
                &[0; BLOCK_SIZE]
            ),
            Outcome::Impossible
        );
    }

    #[test]
    fn nodes_that_wait_for_their_parent_are_few() {
        let sent = sent(40_000);
        let mut incoming = sent.incoming();
        for index in 0..70 {
            for fill in 0..9 {
                incoming.node(NodeId { level: 1, index }, &[fill; BLOCK_SIZE]);
            }
        }
        assert_eq!(incoming.held.len(), MAX_HELD);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whatever comes first, in whatever order, the object is complete with the sender's bytes and nothing else.
        #[test]
        fn any_order_and_any_forgery_ends_in_the_true_bytes(
            blocks in prop::sample::select(vec![1u32, 2, 15, 16, 17, 33, 511, 512, 513, 1025, 2065]),
            seed in any::<u64>(),
            forgeries in 0u32..60,
        ) {
            let sent = sent(blocks);
            let mut incoming = sent.incoming();
            let mut random = fastrand::Rng::with_seed(seed);
            for round in 0.. {
                prop_assert!(round < 2000, "no end: {:?}", incoming.missing().take(5).collect::<Vec<_>>());
                let mut missing: Vec<Unit> = incoming.missing().collect();
                if missing.is_empty() { break; }
                random.shuffle(&mut missing);
                for unit in missing {
                    let forged = random.u32(..100) < forgeries;
                    sent.give(&mut incoming, unit, forged);
                }
            }
            prop_assert!(incoming.is_complete());
            prop_assert_eq!(incoming.into_bytes(), sent.bytes);
        }
    }
}
