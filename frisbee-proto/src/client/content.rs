//! What a client keeps of an object that is coming in, and how it is checked.

use std::fmt;

use chunkfmt::tree::{Cv, NodeId, Shape};
use chunkfmt::{BLOCK_SIZE, GROUP_BLOCKS, parity, path};

use crate::wire::ParityBlock;
use crate::{ObjectInfo, ParityInfo};

/// What a client keeps of an object that is coming in, and how it is checked.
///
/// There are two: [`Kept`], which every program uses, and [`Weightless`] for simulations of very many clients.
pub trait Content: fmt::Debug + Sized {
    /// What is kept of the children of a proof node.
    type Values: fmt::Debug;

    /// What is kept of the manifest head.
    type Head: fmt::Debug;

    /// Keeps the head.
    fn keep_head(head: &[u8; BLOCK_SIZE]) -> Self::Head;

    /// The head.
    fn head(kept: &Self::Head) -> &[u8; BLOCK_SIZE];

    /// Whether this head is the one that was kept.
    fn head_is(kept: &Self::Head, head: &[u8; BLOCK_SIZE]) -> bool;

    /// Room for an object. `None` if the machine cannot hold one of this size.
    fn new(info: &ObjectInfo) -> Option<Self>;

    /// Keeps a block, in place of what was kept of it before.
    fn put(&mut self, block: u32, payload: &[u8; BLOCK_SIZE]);

    /// Whether the blocks kept of a group have this value.
    fn group_is(&self, shape: Shape, group: u32, value: &Cv) -> bool;

    /// Whether what is kept of a block has this value.
    fn block_is(&self, shape: Shape, block: u32, value: &Cv) -> bool;

    /// Whether a block that has come has this value.
    fn payload_is(shape: Shape, block: u32, payload: &[u8; BLOCK_SIZE], value: &Cv) -> bool;

    /// Whether the children of a node have this value together.
    fn merges_to(shape: Shape, node: NodeId, children: &[Cv], value: &Cv) -> bool;

    /// What is to be kept of children.
    fn values(children: &[Cv]) -> Self::Values;

    /// One of the children.
    fn child(values: &Self::Values, slot: u32) -> Option<Cv>;

    /// Whether a parity block is one of the object's.
    fn parity_is(info: &ParityInfo, block: &ParityBlock<'_>) -> bool;

    /// Keeps a parity block that was not kept before.
    fn put_parity(&mut self, block: &ParityBlock<'_>);

    /// Computes all blocks that are not `present` from those that are and the parity blocks. False if that cannot be.
    fn restore(&mut self, info: &ObjectInfo, present: impl Fn(u32) -> bool) -> bool;

    /// The object's bytes.
    fn into_bytes(self) -> Vec<u8>;
}

/// All bytes, all hashes.
#[derive(Debug)]
pub struct Kept {
    /// As far as the last block that has come. What comes in order is written once; clearing everything beforehand took a
    /// fifth of a receiver's time at 700 MB/s.
    bytes: Vec<u8>,
    parity: Vec<(u16, Box<[u8; BLOCK_SIZE]>)>,
}

impl Kept {
    fn blocks(&self, first: u32, count: u32) -> &[u8] {
        let start = first as usize * BLOCK_SIZE;
        let end = start + count as usize * BLOCK_SIZE;
        self.bytes.get(start..end).unwrap_or_default()
    }
}

impl Content for Kept {
    type Values = Vec<Cv>;
    type Head = Box<[u8; BLOCK_SIZE]>;

    fn keep_head(head: &[u8; BLOCK_SIZE]) -> Self::Head {
        Box::new(*head)
    }

    fn head(kept: &Self::Head) -> &[u8; BLOCK_SIZE] {
        kept
    }

    fn head_is(kept: &Self::Head, head: &[u8; BLOCK_SIZE]) -> bool {
        **kept == *head
    }

    fn new(info: &ObjectInfo) -> Option<Self> {
        let bytes = usize::try_from(info.blocks).ok()?.checked_mul(BLOCK_SIZE)?;
        Some(Self {
            bytes: Vec::with_capacity(bytes),
            parity: Vec::new(),
        })
    }

    fn put(&mut self, block: u32, payload: &[u8; BLOCK_SIZE]) {
        let start = block as usize * BLOCK_SIZE;
        match self.bytes.get_mut(start..start + BLOCK_SIZE) {
            Some(place) => place.copy_from_slice(payload),
            None => {
                self.bytes.resize(start, 0);
                self.bytes.extend_from_slice(payload);
            }
        }
    }

    fn group_is(&self, shape: Shape, group: u32, value: &Cv) -> bool {
        let bytes = self.blocks(group * GROUP_BLOCKS, shape.group_blocks(group));
        shape.group_value(group, bytes) == *value
    }

    fn block_is(&self, shape: Shape, block: u32, value: &Cv) -> bool {
        shape.block_value(block, self.blocks(block, 1)) == *value
    }

    fn payload_is(shape: Shape, block: u32, payload: &[u8; BLOCK_SIZE], value: &Cv) -> bool {
        shape.block_value(block, payload) == *value
    }

    fn merges_to(shape: Shape, node: NodeId, children: &[Cv], value: &Cv) -> bool {
        shape.merge(node, children).as_ref() == Some(value)
    }

    fn values(children: &[Cv]) -> Vec<Cv> {
        children.to_vec()
    }

    fn child(values: &Vec<Cv>, slot: u32) -> Option<Cv> {
        values.get(slot as usize).copied()
    }

    fn parity_is(info: &ParityInfo, block: &ParityBlock<'_>) -> bool {
        let (blocks, index) = (info.blocks.into(), block.index.into());
        path::proves(&info.root, blocks, index, block.bytes, block.path)
    }

    fn put_parity(&mut self, block: &ParityBlock<'_>) {
        self.parity.push((block.index, Box::new(*block.bytes)));
    }

    fn restore(&mut self, info: &ObjectInfo, present: impl Fn(u32) -> bool) -> bool {
        let Some(ParityInfo { blocks, .. }) = info.parity else {
            return false;
        };
        let all = (0..).zip(self.bytes.chunks(BLOCK_SIZE));
        let there = all.filter(|(block, _)| present(*block));
        let parity = self.parity.iter();
        let parity = parity.map(|(index, block)| (u32::from(*index), &block[..]));
        let mut restored = Vec::new();
        let result = parity::restore(info.blocks, blocks.into(), there, parity, |block, bytes| {
            restored.extend(bytes.first_chunk().map(|bytes| (block, *bytes)));
        });
        for (block, bytes) in &restored {
            self.put(*block, bytes);
        }
        result.is_ok()
    }

    fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Nothing is kept and everything believed: for simulations of so many clients that their memory would not hold the
/// bytes. What it delivers is empty.
#[derive(Debug)]
pub struct Weightless;

impl Content for Weightless {
    type Values = ();
    type Head = ();

    fn keep_head(_: &[u8; BLOCK_SIZE]) {}

    fn head((): &()) -> &[u8; BLOCK_SIZE] {
        &[0; BLOCK_SIZE]
    }

    fn head_is((): &(), _: &[u8; BLOCK_SIZE]) -> bool {
        true
    }

    fn new(_: &ObjectInfo) -> Option<Self> {
        Some(Self)
    }

    fn put(&mut self, _: u32, _: &[u8; BLOCK_SIZE]) {}

    fn group_is(&self, _: Shape, _: u32, _: &Cv) -> bool {
        true
    }

    fn block_is(&self, _: Shape, _: u32, _: &Cv) -> bool {
        true
    }

    fn payload_is(_: Shape, _: u32, _: &[u8; BLOCK_SIZE], _: &Cv) -> bool {
        true
    }

    fn merges_to(_: Shape, _: NodeId, _: &[Cv], _: &Cv) -> bool {
        true
    }

    fn values(_: &[Cv]) {}

    fn child((): &(), _: u32) -> Option<Cv> {
        Some([0; 32])
    }

    fn parity_is(_: &ParityInfo, _: &ParityBlock<'_>) -> bool {
        true
    }

    fn put_parity(&mut self, _: &ParityBlock<'_>) {}

    fn restore(&mut self, _: &ObjectInfo, _: impl Fn(u32) -> bool) -> bool {
        true
    }

    fn into_bytes(self) -> Vec<u8> {
        Vec::new()
    }
}
