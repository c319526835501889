//! Which objects are lacking, open, delivered or done, and the credit of buffers that they share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::content::Content;
use super::object::Incoming;
use crate::ObjectInfo;
use crate::bits::Bits;
use crate::layout::{Layout, Unit};

/// An object being received, and when its missing parts are asked for.
#[derive(Debug)]
pub(super) struct Open<C: Content> {
    pub(super) incoming: Incoming<C>,
    /// When something useful came, or was asked for.
    pub(super) touched: Instant,
    /// When it was asked for last.
    pub(super) asked: Option<Instant>,
    /// Times that it was asked for since something useful came.
    pub(super) tries: u32,
    /// Its missing parts go into the next REQUEST.
    pub(super) due: bool,
    /// An ask whose answer measures the round trip.
    pub(super) timed: Option<Instant>,
    /// Parity blocks that the server being asked is going to send, whoever asked for them.
    pub(super) parity_queued: u16,
}

/// Why a block of an object finds no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The image has no such object.
    Unknown,
    /// Delivered or skipped.
    Done,
    /// The credit is used up.
    Credit,
}

#[derive(Debug)]
pub(super) struct Stock<C: Content> {
    object0: ObjectInfo,
    chunks: Arc<[ObjectInfo]>,
    /// Neither open nor done.
    lacking: Bits,
    /// In boxes: a node of the map has room for eleven.
    pub(super) open: BTreeMap<u32, Box<Open<C>>>,
    /// Delivered objects that hold their memory, with their blocks.
    unreleased: BTreeMap<u32, u32>,
    credit: u32,
    /// Blocks of open and unreleased objects, object 0 not counted.
    in_use: u32,
    done: u32,
}

impl<C: Content> Stock<C> {
    /// Only object 0 is known yet.
    pub(super) fn new(credit: u32, object0: ObjectInfo) -> Self {
        Self {
            object0,
            chunks: Arc::default(),
            lacking: Bits::full(1),
            open: BTreeMap::new(),
            unreleased: BTreeMap::new(),
            credit,
            in_use: 0,
            done: 0,
        }
    }

    /// Object 0 is done; these are the others.
    pub(super) fn extend(&mut self, chunks: Arc<[ObjectInfo]>) {
        self.chunks = chunks;
        self.lacking = Bits::full(self.objects());
        self.lacking.clear(0);
    }

    /// Objects known, object 0 included.
    pub(super) fn objects(&self) -> u32 {
        u32::try_from(self.chunks.len()).map_or(u32::MAX, |chunks| chunks.saturating_add(1))
    }

    /// What is known of an object.
    pub(super) fn info(&self, object: u32) -> Option<&ObjectInfo> {
        match object.checked_sub(1) {
            None => Some(&self.object0),
            Some(chunk) => self.chunks.get(chunk as usize),
        }
    }

    /// The number of a unit of an object. `None` if there is no such unit.
    pub(super) fn number(&self, object: u32, unit: Unit) -> Option<u32> {
        match self.open.get(&object) {
            Some(open) => open.incoming.layout().number(unit),
            None => Layout::of(self.info(object)?)?.number(unit),
        }
    }

    /// Objects delivered or skipped, object 0 included.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    /// Those of them whose memory is free again.
    pub(super) fn written(&self) -> u32 {
        let unreleased = u32::try_from(self.unreleased.len()).unwrap_or(u32::MAX);
        self.done.saturating_sub(unreleased)
    }

    /// Whether every known object is.
    pub(super) fn is_finished(&self) -> bool {
        self.done == self.objects()
    }

    pub(super) fn is_lacking(&self, object: u32) -> bool {
        self.lacking.get(object)
    }

    /// Blocks of an object.
    pub(super) fn blocks(&self, object: u32) -> u32 {
        self.info(object).map_or(0, |info| info.blocks)
    }

    /// Blocks in use of the credit.
    pub(super) fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The whole credit.
    pub(super) fn credit(&self) -> u32 {
        self.credit
    }

    /// Lacking objects in the rotating order from `cursor` on.
    pub(super) fn lacking_from(&self, cursor: u32) -> impl Iterator<Item = u32> + '_ {
        let cursor = if cursor < self.objects() { cursor } else { 0 };
        let scan = |from: u32| {
            std::iter::successors(self.lacking.next(from), |&object| {
                self.lacking.next(object + 1)
            })
        };
        scan(cursor).chain(scan(0).take_while(move |&object| object < cursor))
    }

    /// The object's place, opened if there is credit for it. True if it was opened by this call.
    pub(super) fn place(
        &mut self,
        now: Instant,
        object: u32,
    ) -> Result<(&mut Open<C>, bool), NoPlace> {
        if self.lacking.get(object) {
            let info = *self.info(object).ok_or(NoPlace::Unknown)?;
            if !self.fits(object, self.in_use) {
                return Err(NoPlace::Credit);
            }
            let incoming = Incoming::new(&info).ok_or(NoPlace::Unknown)?;
            self.in_use = self.in_use.saturating_add(credited(object, info.blocks));
            self.lacking.clear(object);
            let open = Box::new(Open {
                incoming,
                touched: now,
                asked: None,
                tries: 0,
                due: false,
                timed: None,
                parity_queued: 0,
            });
            let open: &mut Open<C> = self.open.entry(object).or_insert(open);
            return Ok((open, true));
        }
        let unknown = object >= self.objects();
        let missing = if unknown {
            NoPlace::Unknown
        } else {
            NoPlace::Done
        };
        self.open
            .get_mut(&object)
            .map(|open| (&mut **open, false))
            .ok_or(missing)
    }

    /// Whether a lacking object has room when so many blocks are spoken for. One object always has.
    pub(super) fn fits(&self, object: u32, spoken_for: u32) -> bool {
        let blocks = credited(object, self.blocks(object));
        spoken_for == 0 || blocks == 0 || spoken_for.saturating_add(blocks) <= self.credit
    }

    /// Takes out a complete object; its memory counts until it is released.
    pub(super) fn deliver(&mut self, object: u32) -> Option<Vec<u8>> {
        let open = self.open.remove(&object)?;
        let blocks = credited(object, open.incoming.blocks());
        if blocks > 0 {
            self.unreleased.insert(object, blocks);
        }
        self.done += 1;
        Some(open.incoming.into_bytes())
    }

    /// The memory of a delivered object is free. False if there is no such object.
    pub(super) fn release(&mut self, object: u32) -> bool {
        let blocks = self.unreleased.remove(&object);
        self.in_use = self.in_use.saturating_sub(blocks.unwrap_or(0));
        blocks.is_some()
    }

    /// The object is not needed. False if it is not known, or done already.
    pub(super) fn skip(&mut self, object: u32) -> bool {
        let open = self.open.remove(&object);
        if let Some(open) = &open {
            self.in_use = self
                .in_use
                .saturating_sub(credited(object, open.incoming.blocks()));
        }
        let skipped = open.is_some() || self.lacking.clear(object);
        self.done += u32::from(skipped);
        skipped
    }
}

/// Object 0 comes before all others and is not part of the credit.
fn credited(object: u32, blocks: u32) -> u32 {
    if object == 0 { 0 } else { blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::content::Weightless;

    #[test]
    fn the_credit_is_kept_and_one_object_always_fits() {
        let info = ObjectInfo {
            blocks: 10,
            root: [0; 32],
            parity: None,
        };
        let now = Instant::now();
        let mut stock = Stock::<Weightless>::new(25, info);
        assert!(stock.place(now, 0).is_ok());
        assert_eq!(stock.place(now, 1).err(), Some(NoPlace::Unknown));
        assert!(stock.deliver(0).is_some());
        stock.extend([info, info, info, ObjectInfo { blocks: 99, ..info }].into());
        assert!(stock.place(now, 1).is_ok() && stock.place(now, 2).is_ok());
        assert_eq!(stock.place(now, 3).err(), Some(NoPlace::Credit));
        assert_eq!(
            (stock.in_use(), stock.lacking_from(4).collect::<Vec<_>>()),
            (20, vec![4, 3])
        );
        stock.deliver(1);
        assert_eq!(stock.place(now, 1).err(), Some(NoPlace::Done));
        assert_eq!(
            stock.place(now, 3).err(),
            Some(NoPlace::Credit),
            "not released yet"
        );
        assert!(stock.release(1) && !stock.release(1) && !stock.release(77));
        assert!(stock.skip(3) && !stock.skip(3) && !stock.skip(77));
        assert!(stock.place(now, 4).is_err());
        assert!(stock.skip(2));
        assert_eq!(stock.in_use(), 0);
        assert!(
            stock.place(now, 4).is_ok(),
            "larger than the credit, but alone"
        );
        assert!(!stock.is_finished());
        stock.deliver(4);
        assert!(stock.is_finished());
    }
}
