//! What the machines of one image share: each object is read once, and its parity computed once, whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

/// What there is of each object, and which machines (`M`) wait for it.
#[derive(Debug)]
pub(super) struct Shelf<T, M> {
    waiting: BTreeMap<u32, BTreeSet<M>>,
    /// Kept as long as some machine keeps it.
    there: BTreeMap<u32, Weak<T>>,
}

/// What becomes of a machine's wish.
#[derive(Debug)]
pub(super) enum Wish<T> {
    Fulfilled(Arc<T>),
    /// The caller is to get it.
    First,
    /// It is on its way.
    Waiting,
}

impl<T, M> Default for Shelf<T, M> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            there: BTreeMap::new(),
        }
    }
}

impl<T, M: Ord> Shelf<T, M> {
    pub(super) fn want(&mut self, object: u32, machine: M) -> Wish<T> {
        if let Some(there) = self.there.get(&object).and_then(Weak::upgrade) {
            return Wish::Fulfilled(there);
        }
        let waiting = self.waiting.entry(object).or_default();
        let is_first = waiting.is_empty();
        waiting.insert(machine);
        match is_first {
            true => Wish::First,
            false => Wish::Waiting,
        }
    }

    /// It has come. Returns who waits for it.
    pub(super) fn put(&mut self, object: u32, what: &Arc<T>) -> BTreeSet<M> {
        self.there.retain(|_, there| there.strong_count() > 0);
        self.there.insert(object, Arc::downgrade(what));
        self.give_up(object)
    }

    /// It does not come. Returns who waits for it.
    pub(super) fn give_up(&mut self, object: u32) -> BTreeSet<M> {
        self.waiting.remove(&object).unwrap_or_default()
    }
}
