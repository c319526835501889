//! Packs what a client lacks into as few REQUESTs as it takes.

use chunkfmt::tree::NodeId;

use crate::wire::{Item, RequestItems};

/// Most REQUESTs at a time: some 40 objects with losses all over. What does not fit is asked for a little later.
const MAX_REQUESTS: usize = 8;
/// Blocks between two missing ones from which on a second bitmap is shorter than one over both (12 bytes, as many as
/// an item has beside its bitmap).
const GAP: u32 = 96;
/// Most bytes of one bitmap: a chunk of 2 MiB with its header fits.
const MAX_BITMAP: usize = 320;

/// REQUESTs under construction.
#[derive(Debug, Default)]
pub(super) struct Requests {
    full: Vec<RequestItems>,
    last: RequestItems,
}

impl Requests {
    /// Adds a whole object. False if there is no room.
    pub(super) fn whole(&mut self, object: u32) -> bool {
        self.push(&Item::Whole { object })
    }

    /// Adds nodes of an object. False if not all of them found room.
    pub(super) fn nodes(&mut self, object: u32, mut nodes: impl Iterator<Item = NodeId>) -> bool {
        nodes.all(|node| self.push(&Item::Node { object, node }))
    }

    /// Adds so many parity blocks of an object. False if there is no room.
    pub(super) fn parity(&mut self, object: u32, count: u16) -> bool {
        self.push(&Item::Parity { object, count })
    }

    /// Adds blocks of an object, in ascending order. False if not all of them found room.
    pub(super) fn blocks(&mut self, object: u32, blocks: impl Iterator<Item = u32>) -> bool {
        let mut bitmap = Vec::new();
        let (mut first, mut last) = (0, 0);
        for block in blocks {
            let byte = |first: u32| (block - first) as usize / 8;
            if !bitmap.is_empty() && (block - last > GAP || byte(first) >= MAX_BITMAP) {
                if !self.push(&Item::Blocks {
                    object,
                    first,
                    bitmap: &bitmap,
                }) {
                    return false;
                }
                bitmap.clear();
            }
            if bitmap.is_empty() {
                first = block;
            }
            last = block;
            bitmap.resize(byte(first) + 1, 0);
            bitmap[byte(first)] |= 1 << ((block - first) % 8);
        }
        bitmap.is_empty()
            || self.push(&Item::Blocks {
                object,
                first,
                bitmap: &bitmap,
            })
    }

    /// The REQUESTs, none of them empty.
    pub(super) fn finish(mut self) -> Vec<RequestItems> {
        if !self.last.is_empty() {
            self.full.push(self.last);
        }
        self.full
    }

    fn push(&mut self, item: &Item<'_>) -> bool {
        if self.last.push(item) {
            return true;
        }
        if self.full.len() + 1 >= MAX_REQUESTS {
            return false;
        }
        self.full.push(std::mem::take(&mut self.last));
        self.last.push(item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::{self, Message, RequestHead, Stream};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_block_asked_for_is_in_the_requests(blocks in prop::collection::btree_set(0u32..100_000, 0..400)) {
            let mut requests = Requests::default();
            prop_assert!(requests.blocks(7, blocks.iter().copied()));
            let stream = Stream { number: 1, uuid: [2; 16] };
            let mut asked = BTreeSet::new();
            for items in requests.finish() {
                let datagram = items.encode(&stream, 3, &RequestHead::default());
                prop_assert!(datagram.len() <= wire::MAX_DATAGRAM);
                let Message::Request(_, items) = wire::decode(&datagram).unwrap().message else { panic!() };
                for item in items {
                    let Item::Blocks { object: 7, first, bitmap } = item else { panic!("{item:?}") };
                    let bits = (0..).zip(bitmap);
                    let bits = bits.flat_map(|(i, byte)| (0..8).filter(move |b| byte >> b & 1 == 1).map(move |b| i * 8 + b));
                    for bit in bits {
                        prop_assert!(asked.insert(first + bit));
                    }
                }
            }
            prop_assert_eq!(asked, blocks);
        }
    }

    #[test]
    fn a_great_many_are_cut_off() {
        let mut requests = Requests::default();
        assert!(!requests.blocks(7, (0..10_000_000).step_by(200)));
        assert_eq!(requests.finish().len(), MAX_REQUESTS);
    }
}
