//! The way from a single block to the BLAKE3 root of what it is part of: what lets one block prove itself.
//!
//! BLAKE3's tree gives the left subtree the largest power of two (BLAKE3 paper, section 2.1). That is the same as
//! merging neighbours level by level, where a last value without a neighbour goes up as it is.

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::BLOCK_SIZE;
use crate::tree::{Cv, Shape};

/// Most values beside the way of a block among so many: the logarithm, rounded up.
pub fn depth(blocks: u32) -> usize {
    blocks.max(1).next_power_of_two().trailing_zeros() as usize
}

/// Whether `block` is the one at `index` of `blocks` blocks with this root. `path` are the values beside its way, from the
/// block up; what stands behind them is not looked at.
pub fn proves(
    root: &Cv,
    blocks: u32,
    index: u32,
    block: &[u8; BLOCK_SIZE],
    mut path: &[Cv],
) -> bool {
    let Some(shape) = Shape::new(blocks).filter(|_| index < blocks) else {
        return false;
    };
    let mut value = shape.block_value(index, block);
    let (mut index, mut width) = (index, blocks);
    while width > 1 {
        if let Some(beside) = neighbour(index, width) {
            let Some((other, rest)) = path.split_first() else {
                return false;
            };
            path = rest;
            let (left, right) = if beside < index {
                (other, &value)
            } else {
                (&value, other)
            };
            value = merge(left, right, width == 2);
        }
        (index, width) = (index / 2, width.div_ceil(2));
    }
    value == *root
}

/// The values of all subtrees over single blocks, from which each block's way is taken.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The values of each level from the blocks up, without the root.
    levels: Vec<Vec<Cv>>,
    root: Cv,
}

impl Paths {
    /// Hashes a whole number of blocks. `None` for none, or if they are more than 2^32 - 1.
    pub fn build(bytes: &[u8]) -> Option<Self> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        let shape = Shape::new(u32::try_from(blocks.len()).ok()?).filter(|_| rest.is_empty())?;
        let mut level: Vec<Cv> = (0..)
            .zip(blocks)
            .map(|(index, block)| shape.block_value(index, block))
            .collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let is_top = level.len() == 2;
            let above = level.chunks(2).map(|pair| match pair {
                [left, right] => merge(left, right, is_top),
                [only, ..] => *only,
                [] => Cv::default(),
            });
            let above = above.collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        let root = *level.first()?;
        Some(Self { levels, root })
    }

    /// The root over all blocks.
    pub fn root(&self) -> Cv {
        self.root
    }

    /// Puts the values beside the way of the block at `index` into `path`, from the block up.
    pub fn path(&self, index: u32, path: &mut Vec<Cv>) {
        path.clear();
        for (up, level) in self.levels.iter().enumerate() {
            let at = index >> up;
            let width = u32::try_from(level.len()).unwrap_or(u32::MAX);
            let beside = neighbour(at, width).and_then(|beside| level.get(beside as usize));
            path.extend(beside);
        }
    }
}

/// What a value at `index` of `width` is merged with, if there is such a value.
fn neighbour(index: u32, width: u32) -> Option<u32> {
    Some(index ^ 1).filter(|&beside| beside < width)
}

fn merge(left: &Cv, right: &Cv, root: bool) -> Cv {
    if root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_block_proves_itself_and_no_other() {
        for blocks in [1_u32, 2, 3, 5, 8, 13, 64, 100, 257] {
            let bytes: Vec<u8> = (0..blocks as usize * BLOCK_SIZE)
                .map(|at| u8::try_from(at / 7 % 251).unwrap())
                .collect();
            let paths = Paths::build(&bytes).unwrap();
            let root = *blake3::hash(&bytes).as_bytes();
            assert_eq!(paths.root(), root, "{blocks} blocks");
            let mut path = Vec::new();
            for index in 0..blocks {
                paths.path(index, &mut path);
                assert!(path.len() <= depth(blocks));
                let at = index as usize * BLOCK_SIZE;
                let block = bytes[at..].first_chunk().unwrap();
                assert!(proves(&root, blocks, index, block, &path));
                let mut padded = path.clone();
                padded.resize(depth(blocks) + 1, [0; 32]);
                assert!(proves(&root, blocks, index, block, &padded));
                assert!(!proves(&root, blocks, index ^ 1, block, &path), "{index}");
                let mut changed = *block;
                changed[77] ^= 1;
                assert!(!proves(&root, blocks, index, &changed, &path));
                if let Some(first) = path.first_mut() {
                    first[0] ^= 1;
                    assert!(!proves(&root, blocks, index, block, &path));
                    assert!(!proves(&root, blocks, index, block, &path[1..]));
                }
            }
        }
        assert!(Paths::build(&[]).is_none() && Paths::build(&[0; 1025]).is_none());
        assert!(!proves(&[0; 32], 0, 0, &[0; BLOCK_SIZE], &[]));
    }
}
