//! What the server has in memory of a few objects, their bytes or their parity blocks, and what it needs next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An object that could not be read is not asked for again for so long: a broken disk is slow enough.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Loaded objects up to a budget of bytes, the least recently needed leaving first. Object 0 stays beside the budget,
/// since every new client asks for it.
#[derive(Debug)]
pub(super) struct Cache<T> {
    budget: usize,
    loaded: BTreeMap<u32, Entry<T>>,
    loading: BTreeSet<u32>,
    failed: BTreeMap<u32, Instant>,
    clock: u64,
}

#[derive(Debug)]
struct Entry<T> {
    needed: u64,
    bytes: usize,
    object: Arc<T>,
}

impl<T> Cache<T> {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            loaded: BTreeMap::new(),
            loading: BTreeSet::new(),
            failed: BTreeMap::new(),
            clock: 0,
        }
    }

    /// The first of the objects that are needed soon (number and bytes, in order) that is neither here nor being
    /// loaded, as far as the budget reaches; the very first is always needed.
    pub(super) fn next_load(&mut self, soon: &[(u32, usize)]) -> Option<u32> {
        self.clock += 1;
        let (mut total, mut load) = (0_usize, None);
        for (place, &(object, bytes)) in soon.iter().enumerate() {
            total = total.saturating_add(bytes);
            if place > 0 && total > self.budget {
                break;
            }
            if let Some(entry) = self.loaded.get_mut(&object) {
                entry.needed = self.clock;
            } else if load.is_none() && !self.loading.contains(&object) {
                load = Some(object);
            }
        }
        self.loading.extend(load);
        load
    }

    /// An object has been loaded, which takes so many bytes.
    pub(super) fn insert(&mut self, object: u32, loaded: Arc<T>, bytes: usize) {
        if !self.loading.remove(&object) {
            return;
        }
        self.clock += 1;
        self.loaded.insert(
            object,
            Entry {
                needed: self.clock,
                bytes,
                object: loaded,
            },
        );
        while self.bytes() > self.budget {
            let others = self
                .loaded
                .iter()
                .filter(|(other, _)| ![0, object].contains(other));
            let Some((&oldest, _)) = others.min_by_key(|(_, entry)| entry.needed) else {
                break;
            };
            self.loaded.remove(&oldest);
        }
    }

    /// An object could not be loaded.
    pub(super) fn fail(&mut self, now: Instant, object: u32) {
        self.loading.remove(&object);
        self.failed.insert(object, now + FAILED_FOR);
    }

    /// Whether an object could not be loaded a short while ago.
    pub(super) fn has_failed(&mut self, now: Instant, object: u32) -> bool {
        let failed = self.failed.get(&object).is_some_and(|&until| now < until);
        if !failed {
            self.failed.remove(&object);
        }
        failed
    }

    /// An object, if it is here.
    pub(super) fn get(&self, object: u32) -> Option<Arc<T>> {
        self.loaded
            .get(&object)
            .map(|entry| Arc::clone(&entry.object))
    }

    fn bytes(&self) -> usize {
        self.loaded
            .iter()
            .filter(|(object, _)| **object != 0)
            .map(|(_, entry)| entry.bytes)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn loads_what_is_needed_soon_within_the_budget() {
        let size = 4096;
        let loaded = || Arc::new(());
        let mut cache = Cache::new(2 * size);
        let soon = [(5, size), (6, size), (7, size)];
        assert_eq!(cache.next_load(&soon), Some(5));
        assert_eq!(cache.next_load(&soon), Some(6));
        assert_eq!(
            cache.next_load(&soon),
            None,
            "the third would push out the first"
        );
        cache.insert(5, loaded(), size);
        cache.insert(6, loaded(), size);
        cache.insert(7, loaded(), size);
        assert!(cache.get(7).is_none(), "not asked for");
        assert_eq!(cache.next_load(&soon[1..]), Some(7));
        cache.insert(7, loaded(), size);
        assert!(cache.get(5).is_none() && cache.get(6).is_some() && cache.get(7).is_some());
        assert_eq!(
            Cache::<()>::new(0).next_load(&soon),
            Some(5),
            "one object whatever the budget"
        );
    }

    #[test]
    fn a_failed_object_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut cache = Cache::<()>::new(0);
        cache.fail(now, 3);
        assert!(cache.has_failed(now, 3) && !cache.has_failed(now + FAILED_FOR, 3));
        assert!(!cache.has_failed(now, 3), "forgotten");
    }
}
