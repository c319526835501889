//! The order in which an object is sent: every datagram of an object has one number, its *unit*.
//!
//! Nodes of level 2 and up come first, from the top; then each node of level 1 just before the 512 blocks that it
//! covers. Nodes of level 0 have the numbers behind these, then come parity blocks: they are not part of a whole object,
//! only of repairs.

use chunkfmt::GROUP_BLOCKS;
use chunkfmt::tree::{NODE_CHILDREN, NodeId, Shape};

use crate::ObjectInfo;

/// Blocks that a node of level 1 covers.
const SEGMENT: u32 = GROUP_BLOCKS * NODE_CHILDREN;

/// One datagram's worth of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// A block.
    Block(u32),
    /// The children of a tree node.
    Node(NodeId),
    /// A parity block.
    Parity(u16),
}

/// Numbers the units of an object of a given shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    shape: Shape,
    /// Nodes of level 2 and up.
    upper: u32,
    /// Nodes of level 1.
    segments: u32,
    /// Nodes of level 0; none for an object of one block, which proves itself.
    leaves: u32,
    parity: u16,
}

impl Layout {
    /// The layout of an object.
    pub(crate) fn of(info: &ObjectInfo) -> Option<Self> {
        let parity = info.parity.map_or(0, |parity| parity.blocks);
        Self::new(info.blocks, parity)
    }

    /// The layout of an object of 1 to [`crate::MAX_OBJECT_BLOCKS`] blocks, with so many parity blocks.
    pub(crate) fn new(blocks: u32, parity: u16) -> Option<Self> {
        let shape = Shape::new(blocks).filter(|_| blocks <= crate::MAX_OBJECT_BLOCKS)?;
        let upper = (2..=shape.top_level())
            .map(|level| shape.nodes(level))
            .sum();
        let segments = shape.nodes(1);
        let leaves = if blocks == 1 { 0 } else { shape.nodes(0) };
        Some(Self {
            shape,
            upper,
            segments,
            leaves,
            parity,
        })
    }

    /// The tree.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Units of the whole object as it is sent; they have the numbers `0..whole()`.
    pub(crate) fn whole(&self) -> u32 {
        self.upper + self.segments + self.shape.blocks()
    }

    /// All units, those of level 0 and parity blocks included.
    pub(crate) fn units(&self) -> u32 {
        self.first_parity() + u32::from(self.parity)
    }

    /// The number of the first parity block; it and all behind it are parity blocks.
    pub(crate) fn first_parity(&self) -> u32 {
        self.whole() + self.leaves
    }

    /// Parity blocks that there are.
    pub(crate) fn parity(&self) -> u16 {
        self.parity
    }

    /// The number of a unit; `None` if the object has no such block or node.
    pub(crate) fn number(&self, unit: Unit) -> Option<u32> {
        match unit {
            Unit::Block(block) if block < self.shape.blocks() => {
                let before = if self.segments == 0 {
                    0
                } else {
                    block / SEGMENT + 1
                };
                Some(self.upper + before + block)
            }
            Unit::Block(_) => None,
            Unit::Parity(index) => {
                (index < self.parity).then(|| self.first_parity() + u32::from(index))
            }
            Unit::Node(NodeId { level, index }) if index < self.shape.nodes(level) => match level {
                0 => (self.leaves > 0).then(|| self.whole() + index),
                1 => Some(self.upper + index * (SEGMENT + 1)),
                _ => Some(
                    (level + 1..=self.shape.top_level())
                        .map(|above| self.shape.nodes(above))
                        .sum::<u32>()
                        + index,
                ),
            },
            Unit::Node(_) => None,
        }
    }

    /// The unit with this number.
    pub(crate) fn unit(&self, number: u32) -> Option<Unit> {
        if let Some(index) = number.checked_sub(self.first_parity()) {
            let index = u16::try_from(index).ok()?;
            return (index < self.parity).then_some(Unit::Parity(index));
        }
        if let Some(index) = number.checked_sub(self.whole()) {
            return Some(Unit::Node(NodeId { level: 0, index }));
        }
        let Some(rest) = number.checked_sub(self.upper) else {
            let mut index = number;
            let mut level = self.shape.top_level();
            while index >= self.shape.nodes(level) {
                index -= self.shape.nodes(level);
                level -= 1;
            }
            return Some(Unit::Node(NodeId { level, index }));
        };
        if self.segments == 0 {
            return Some(Unit::Block(rest));
        }
        let (segment, place) = (rest / (SEGMENT + 1), rest % (SEGMENT + 1));
        Some(match place.checked_sub(1) {
            None => Unit::Node(NodeId {
                level: 1,
                index: segment,
            }),
            Some(block) => Unit::Block(segment * SEGMENT + block),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_nodes_precede_what_they_cover() {
        for blocks in [
            1, 2, 15, 16, 17, 33, 512, 513, 1024, 1025, 2065, 16384, 16385, 40000,
        ] {
            let layout = Layout::new(blocks, 70).unwrap();
            let mut seen_blocks = 0;
            let mut seen_nodes = Vec::new();
            for number in 0..layout.whole() {
                let unit = layout.unit(number).unwrap();
                assert_eq!(
                    layout.number(unit),
                    Some(number),
                    "{blocks} blocks, {unit:?}"
                );
                match unit {
                    Unit::Block(block) => {
                        assert_eq!(block, seen_blocks);
                        seen_blocks += 1;
                        if let Some((parent, _)) = layout.shape().group_parent(block / GROUP_BLOCKS)
                        {
                            assert!(seen_nodes.contains(&parent));
                        }
                    }
                    Unit::Node(node) => {
                        assert!(
                            layout
                                .shape()
                                .parent(node)
                                .is_none_or(|(parent, _)| seen_nodes.contains(&parent))
                        );
                        seen_nodes.push(node);
                    }
                    Unit::Parity(_) => panic!("{unit:?} is part of a whole object"),
                }
            }
            assert_eq!(seen_blocks, blocks);
            assert!(
                layout
                    .shape()
                    .proof_nodes()
                    .all(|node| seen_nodes.contains(&node))
            );
            for number in layout.whole()..layout.units() {
                let unit = layout.unit(number).unwrap();
                let is_parity = number >= layout.first_parity();
                match unit {
                    Unit::Parity(_) => assert!(is_parity),
                    _ => assert!(!is_parity && matches!(unit, Unit::Node(NodeId { level: 0, .. }))),
                }
                assert_eq!(layout.number(unit), Some(number));
            }
            assert_eq!(layout.units() - layout.first_parity(), 70);
            assert_eq!(layout.number(Unit::Parity(70)), None);
            assert_eq!(layout.unit(layout.units()), None);
            assert_eq!(layout.number(Unit::Block(blocks)), None);
            assert_eq!(
                layout.number(Unit::Node(NodeId { level: 9, index: 0 })),
                None
            );
        }
    }

    #[test]
    fn the_largest_object_has_numbers() {
        let layout = Layout::new(crate::MAX_OBJECT_BLOCKS, 0).unwrap();
        let last = layout.unit(layout.units() - 1).unwrap();
        assert_eq!(
            last,
            Unit::Node(NodeId {
                level: 0,
                index: (1 << 24) - 1
            })
        );
        assert!(Layout::new(crate::MAX_OBJECT_BLOCKS + 1, 0).is_none());
        assert!(Layout::new(0, 0).is_none());
    }
}
