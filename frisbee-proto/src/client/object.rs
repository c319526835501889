//! One object being received: its buffer, and what of it is proven.
//!
//! Blocks are kept as they come and checked by the group of 16 as soon as the group is full and its chaining value is
//! known. A group that fails becomes *suspect*: its level 0 node is asked for, which tells the true blocks from the
//! false ones, and from then on each of its blocks is checked before it is kept. So a forged block costs its group one
//! more proof, and never keeps the true one out.
//!
//! Parity blocks are proven when they come. With as many blocks of either kind as the object has, the missing ones are
//! computed. If a block that went into this was false, so are those that came of it; their groups turn out suspect like
//! any other, and once these are sorted the same parity blocks serve again.
//!
//! Memory: the object's bytes and two bits per block, its nodes of level 1 and up (32 bytes per group), at most
//! [`MAX_HELD`] nodes waiting for their parent, 512 bytes for each suspect group, and parity blocks: as many as blocks
//! were missing, an eighth of the object at most if its owner made as many as usual.

use std::collections::BTreeMap;

use chunkfmt::tree::{Cv, NODE_CHILDREN, NodeId, Shape};
use chunkfmt::{BLOCK_SIZE, GROUP_BLOCKS};

use super::content::Content;
use crate::ObjectInfo;
use crate::bits::Bits;
use crate::layout::Layout;
use crate::wire::ParityBlock;

/// Nodes kept that cannot be checked yet because their parent is missing.
const MAX_HELD: usize = 16;

/// Asks for parity in vain after which the missing blocks themselves are asked for: every parity block that still comes
/// may be one that is here already.
const PARITY_TRIES: u32 = 3;

/// What became of a block or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Kept.
    New,
    /// Kept before, or of no use now.
    Duplicate,
    /// Kept, but now its group is known to hold something false; see [`Incoming::proofs_missing`].
    Suspect,
    /// Proven false.
    Forged,
    /// The object has no such block or node.
    Impossible,
}

#[derive(Debug)]
pub(super) struct Incoming<C: Content> {
    info: ObjectInfo,
    layout: Layout,
    content: C,
    /// Blocks that are there, true or not yet known to be false.
    have: Bits,
    /// Parity blocks that are there, all of them true.
    parity: Bits,
    /// Groups proven.
    proven: Bits,
    /// Blocks of these, and parity blocks.
    proven_blocks: u32,
    /// Children of the nodes of level 1 and up that are proven.
    nodes: BTreeMap<NodeId, C::Values>,
    held: Vec<(NodeId, Vec<Cv>)>,
    /// Groups with something false in them, and their blocks' values once these are proven.
    suspects: BTreeMap<u32, Option<C::Values>>,
    forged: u64,
    restored: u32,
}

impl<C: Content> Incoming<C> {
    /// An empty object; allocates its buffer. `None` if the size is none that an object has.
    pub(super) fn new(info: &ObjectInfo) -> Option<Self> {
        let layout = Layout::of(info)?;
        Some(Self {
            info: *info,
            layout,
            content: C::new(info)?,
            have: Bits::new(info.blocks),
            parity: Bits::new(layout.parity().into()),
            proven: Bits::new(layout.shape().groups()),
            proven_blocks: 0,
            nodes: BTreeMap::new(),
            held: Vec::new(),
            suspects: BTreeMap::new(),
            forged: 0,
            restored: 0,
        })
    }

    /// Blocks of the object.
    pub(super) fn blocks(&self) -> u32 {
        self.layout.shape().blocks()
    }

    /// Blocks, of the object or of its parity, that still have to come.
    pub(super) fn blocks_missing(&self) -> u32 {
        (self.blocks() - self.have.count()).saturating_sub(self.parity.count())
    }

    /// Blocks that are proven: those of proven groups, and parity blocks.
    pub(super) fn proven_blocks(&self) -> u32 {
        self.proven_blocks
    }

    /// Blocks and nodes found false so far.
    pub(super) fn forged(&self) -> u64 {
        self.forged
    }

    /// Blocks computed with the help of parity.
    pub(super) fn restored(&self) -> u32 {
        self.restored
    }

    /// Whether every block is proven.
    pub(super) fn is_complete(&self) -> bool {
        self.proven.is_full()
    }

    /// The bytes of a complete object.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.content.into_bytes()
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
            let value = C::child(values, block % GROUP_BLOCKS);
            if value.is_none_or(|value| !C::payload_is(self.shape(), block, payload, &value)) {
                self.forged += 1;
                return Outcome::Forged;
            }
        }
        self.content.put(block, payload);
        self.have.set(block);
        let outcome = self.check_group(group);
        self.restore(outcome)
    }

    /// Takes a parity block.
    pub(super) fn parity(&mut self, block: &ParityBlock<'_>) -> Outcome {
        let Some(parity) = self
            .info
            .parity
            .filter(|parity| block.index < parity.blocks)
        else {
            return Outcome::Impossible;
        };
        if self.parity.get(block.index.into()) || self.blocks_missing() == 0 {
            return Outcome::Duplicate;
        }
        if !C::parity_is(&parity, block) {
            self.forged += 1;
            return Outcome::Forged;
        }
        self.content.put_parity(block);
        self.parity.set(block.index.into());
        self.proven_blocks += 1;
        self.restore(Outcome::New)
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
            Some(value) if !C::merges_to(self.shape(), node, values, &value) => {
                self.forged += 1;
                Outcome::Forged
            }
            Some(_) => {
                let outcome = self.proven_node(node, values);
                self.restore(outcome)
            }
        }
    }

    /// The nodes that have to be asked for: those of level 1 and up that are not known, and those of level 0 of suspect
    /// groups.
    pub(super) fn proofs_missing(&self) -> impl Iterator<Item = NodeId> + '_ {
        let held = |node: &NodeId| self.held.iter().any(|(other, _)| other == node);
        let nodes = self
            .shape()
            .proof_nodes()
            .filter(move |node| !self.nodes.contains_key(node) && !held(node));
        let leaves = self.suspects.iter().filter(|(_, values)| values.is_none());
        nodes.chain(leaves.map(|(&index, _)| NodeId { level: 0, index }))
    }

    /// The blocks that are not there, in the order of sending.
    pub(super) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.have.next_clear(0), |&block| {
            self.have.next_clear(block + 1)
        })
    }

    /// How many parity blocks would make up for what is missing, if there are as many that are not here yet and asking
    /// for them was not in vain several times.
    pub(super) fn parity_wanted(&self, tries: u32) -> Option<u16> {
        let unseen = u32::from(self.layout.parity()) - self.parity.count();
        let missing = self.blocks_missing();
        let possible = (1..=unseen).contains(&missing) && tries < PARITY_TRIES;
        u16::try_from(missing).ok().filter(|_| possible)
    }

    /// The order in which it is sent.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    fn shape(&self) -> Shape {
        self.layout.shape()
    }

    /// What a node or group has to merge to, if that is known.
    fn value(&self, node: NodeId) -> Option<Cv> {
        match self.shape().parent(node) {
            None => Some(self.info.root),
            Some((parent, slot)) => C::child(self.nodes.get(&parent)?, slot),
        }
    }

    fn group_range(&self, group: u32) -> std::ops::Range<u32> {
        let first = group * GROUP_BLOCKS;
        first..first + self.shape().group_blocks(group)
    }

    /// Proves a group if it is full and its value is known.
    fn check_group(&mut self, group: u32) -> Outcome {
        let range = self.group_range(group);
        let lacking = self.have.next_clear(range.start);
        if self.proven.get(group) || lacking.is_some_and(|block| block < range.end) {
            return Outcome::New;
        }
        let Some(value) = self.value(NodeId {
            level: 0,
            index: group,
        }) else {
            return Outcome::New;
        };
        if self.content.group_is(self.shape(), group, &value) {
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

    fn proven_node(&mut self, node: NodeId, values: &[Cv]) -> Outcome {
        if node.level == 0 {
            return self.proven_leaves(node.index, values);
        }
        self.nodes.insert(node, C::values(values));
        let children =
            node.index * NODE_CHILDREN..node.index.saturating_add(1).saturating_mul(NODE_CHILDREN);
        if node.level == 1 {
            let groups = children.start..children.end.min(self.shape().groups());
            return self.check_groups(groups);
        }
        let is_child = |held: &mut (NodeId, Vec<Cv>)| {
            held.0.level + 1 == node.level && children.contains(&held.0.index)
        };
        let waiting: Vec<_> = self.held.extract_if(.., is_child).collect();
        let mut outcome = Outcome::New;
        for (child, values) in waiting {
            let is_true = self
                .value(child)
                .is_some_and(|value| C::merges_to(self.shape(), child, &values, &value));
            if is_true && !self.nodes.contains_key(&child) {
                if self.proven_node(child, &values) == Outcome::Suspect {
                    outcome = Outcome::Suspect;
                }
            } else {
                self.forged += 1;
            }
        }
        outcome
    }

    fn check_groups(&mut self, groups: std::ops::Range<u32>) -> Outcome {
        let suspect = groups
            .filter(|&group| self.check_group(group) == Outcome::Suspect)
            .count();
        if suspect > 0 {
            Outcome::Suspect
        } else {
            Outcome::New
        }
    }

    /// Sorts the blocks of a suspect group.
    fn proven_leaves(&mut self, group: u32, values: &[Cv]) -> Outcome {
        for (block, value) in self.group_range(group).zip(values) {
            if self.have.get(block) && !self.content.block_is(self.shape(), block, value) {
                self.have.clear(block);
                self.forged += 1;
            }
        }
        self.suspects.insert(group, Some(C::values(values)));
        match self.check_group(group) {
            Outcome::New if !self.proven.get(group) => Outcome::Suspect,
            outcome => outcome,
        }
    }

    /// Computes the missing blocks if enough is there. Not while a group waits to be sorted: what came of another try
    /// would be false again.
    fn restore(&mut self, outcome: Outcome) -> Outcome {
        let unsorted = self.suspects.values().any(Option::is_none);
        if self.have.is_full() || self.blocks_missing() > 0 || unsorted {
            return outcome;
        }
        let (have, content) = (&self.have, &mut self.content);
        if !content.restore(&self.info, |block| have.get(block)) {
            return outcome;
        }
        self.restored += self.blocks() - self.have.count();
        self.have = Bits::full(self.blocks());
        match self.check_groups(0..self.shape().groups()) {
            Outcome::New => outcome,
            suspect => suspect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::content::Kept;
    use crate::layout::Unit;
    use crate::server::{Loaded, Parity};
    use chunkfmt::parity::usual_count;
    use proptest::prelude::*;

    /// All that may be asked for.
    fn lacking(incoming: &Incoming<Kept>) -> Vec<Unit> {
        let proofs = incoming.proofs_missing().map(Unit::Node);
        proofs.chain(incoming.missing().map(Unit::Block)).collect()
    }

    struct Sent {
        object: Loaded,
        parity: Parity,
        layout: Layout,
    }

    fn sent(blocks: u32) -> Sent {
        let mut bytes = vec![0; blocks as usize * BLOCK_SIZE];
        fastrand::Rng::with_seed(u64::from(blocks)).fill(&mut bytes);
        let object = Loaded::new(bytes).unwrap();
        let count = u16::try_from(usual_count(blocks)).unwrap();
        Sent {
            parity: Parity::of(&object, count).unwrap(),
            object,
            layout: Layout::new(blocks, count).unwrap(),
        }
    }

    impl Sent {
        fn incoming(&self) -> Incoming<Kept> {
            Incoming::new(&ObjectInfo {
                parity: Some(self.parity.info()),
                ..self.object.info()
            })
            .unwrap()
        }

        fn give(&self, incoming: &mut Incoming<Kept>, unit: Unit, forged: bool) -> Outcome {
            let mut payload = [0; BLOCK_SIZE];
            match unit {
                Unit::Block(block) => {
                    payload.copy_from_slice(self.object.block(block).unwrap());
                    payload[5] ^= u8::from(forged);
                    incoming.block(block, &payload)
                }
                Unit::Node(node) => {
                    let children = self.object.node(node).unwrap();
                    payload[..children.len() * 32].copy_from_slice(children.as_flattened());
                    payload[5] ^= u8::from(forged);
                    incoming.node(node, &payload)
                }
                Unit::Parity(index) => {
                    let mut path = Vec::new();
                    payload.copy_from_slice(self.parity.block(index, &mut path).unwrap());
                    payload[5] ^= u8::from(forged);
                    incoming.parity(&ParityBlock {
                        index,
                        queued: 0,
                        bytes: &payload,
                        path: &path,
                    })
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
        assert_eq!(lacking(&incoming), [leaf]);
        assert_eq!(sent.give(&mut incoming, leaf, true), Outcome::Forged);
        assert_eq!(sent.give(&mut incoming, leaf, false), Outcome::Suspect);
        assert_eq!(lacking(&incoming), [Unit::Block(21)]);
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
        assert!(incoming.into_bytes() == sent.object.bytes);
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
                prop_assert!(round < 2000, "no end: {:?}", lacking(&incoming));
                let mut missing: Vec<Unit> = lacking(&incoming);
                if missing.is_empty() { break; }
                random.shuffle(&mut missing);
                for unit in missing {
                    let forged = random.u32(..100) < forgeries;
                    sent.give(&mut incoming, unit, forged);
                }
            }
            prop_assert!(incoming.is_complete());
            prop_assert!(incoming.into_bytes() == sent.object.bytes);
        }
    }

    #[test]
    fn parity_makes_up_for_what_was_lost() {
        let sent = sent(600);
        let mut incoming = sent.incoming();
        let lost = [0, 1, 17, 300, 599];
        for number in 0..sent.layout.whole() {
            let unit = sent.layout.unit(number).unwrap();
            if !lost.map(Unit::Block).contains(&unit) {
                sent.give(&mut incoming, unit, false);
            }
        }
        assert_eq!(incoming.parity_wanted(0), Some(5));
        assert_eq!(incoming.parity_wanted(PARITY_TRIES), None);
        let give =
            |incoming: &mut _, index, forged| sent.give(incoming, Unit::Parity(index), forged);
        assert_eq!(give(&mut incoming, 70, true), Outcome::Forged);
        assert_eq!(give(&mut incoming, 70, false), Outcome::New);
        assert_eq!(give(&mut incoming, 70, false), Outcome::Duplicate);
        assert_eq!(
            sent.give(&mut incoming, Unit::Block(1), false),
            Outcome::New
        );
        assert_eq!(incoming.parity_wanted(0), Some(3));
        (0..3).for_each(|index| assert_eq!(give(&mut incoming, index, false), Outcome::New));
        assert!(incoming.is_complete());
        assert_eq!((incoming.restored(), incoming.forged()), (4, 1));
        assert!(incoming.into_bytes() == sent.object.bytes);
    }

    #[test]
    fn parity_is_not_used_up_by_a_forged_block() {
        let sent = sent(600);
        let mut incoming = sent.incoming();
        for number in 0..sent.layout.whole() {
            let unit = sent.layout.unit(number).unwrap();
            // The last of its group is missing, so that nobody notices that the first one is forged.
            if ![15, 77].map(Unit::Block).contains(&unit) {
                sent.give(&mut incoming, unit, unit == Unit::Block(0));
            }
        }
        sent.give(&mut incoming, Unit::Parity(4), false);
        assert_eq!(
            sent.give(&mut incoming, Unit::Parity(9), false),
            Outcome::Suspect
        );
        let leaves: Vec<Unit> = lacking(&incoming);
        assert_eq!(leaves.len(), 2, "{leaves:?}");
        for leaf in leaves {
            sent.give(&mut incoming, leaf, false);
        }
        assert_eq!(incoming.missing().collect::<Vec<_>>(), [0, 15, 77]);
        assert_eq!(incoming.parity_wanted(0), Some(1));
        sent.give(&mut incoming, Unit::Parity(0), false);
        assert!(incoming.is_complete());
        assert!(incoming.into_bytes() == sent.object.bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// As above, with parity asked for where it can be, and lost like anything else.
        #[test]
        fn with_parity_too_it_ends_in_the_true_bytes(
            blocks in prop::sample::select(vec![1u32, 2, 15, 16, 17, 33, 511, 512, 513, 1025]),
            seed in any::<u64>(),
            forgeries in 0u32..60,
            losses in 0u32..40,
        ) {
            let sent = sent(blocks);
            let mut incoming = sent.incoming();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut units: Vec<Unit> = lacking(&incoming);
            for round in 0.. {
                prop_assert!(round < 2000, "no end: {:?}", lacking(&incoming));
                for unit in units {
                    let forged = random.u32(..100) < forgeries;
                    if forged || random.u32(..100) >= losses {
                        sent.give(&mut incoming, unit, forged);
                    }
                }
                if incoming.is_complete() { break; }
                units = incoming.proofs_missing().map(Unit::Node).collect();
                match incoming.parity_wanted(round % 5) {
                    Some(count) => units.extend((0..count).map(|_| Unit::Parity(random.u16(..sent.layout.parity())))),
                    None => units.extend(incoming.missing().map(Unit::Block)),
                }
            }
            prop_assert!(incoming.into_bytes() == sent.object.bytes);
        }
    }
}
