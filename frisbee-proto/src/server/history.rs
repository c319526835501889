//! At which sequence each unit was last sent, for the recent past: what a client had not heard of is in flight.

use std::collections::BTreeMap;

/// Units remembered, over all objects: 2^18 datagrams are 2.4 s at 1 Gbit/s and 2 MiB of memory.
const CAPACITY: usize = 1 << 18;

/// The last sequence of every unit of the objects sent last. Memory: 8 bytes for each of [`CAPACITY`] units, or for
/// each unit of the newest object if that one alone has more.
#[derive(Debug, Default)]
pub(super) struct History {
    objects: BTreeMap<u32, Entry>,
    /// Objects by the age of their entry.
    order: BTreeMap<u64, u32>,
    units: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// Key in `order`.
    stamp: u64,
    /// One more than the newest sequence in `sent`.
    newest: u64,
    /// One more than the sequence at which each unit was last sent; 0 for never.
    sent: Vec<u64>,
}

impl History {
    /// An object of so many units is going to be sent: older objects are forgotten if need be.
    pub(super) fn begin(&mut self, object: u32, units: u32) {
        self.clock += 1;
        let stamp = self.clock;
        if let Some(entry) = self.objects.get_mut(&object) {
            self.order.remove(&entry.stamp);
            entry.stamp = stamp;
        } else {
            let sent = vec![0; units as usize];
            self.units += sent.len();
            self.objects.insert(
                object,
                Entry {
                    stamp,
                    newest: 0,
                    sent,
                },
            );
        }
        self.order.insert(stamp, object);
        while self.units > CAPACITY && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            let forgotten = self
                .objects
                .remove(&oldest)
                .map_or(0, |entry| entry.sent.len());
            self.units -= forgotten;
        }
    }

    /// A unit of an object that was begun goes out with this sequence.
    pub(super) fn note(&mut self, object: u32, unit: u32, sequence: u64) {
        let Some(entry) = self.objects.get_mut(&object) else {
            return;
        };
        entry.newest = sequence + 1;
        if let Some(sent) = entry.sent.get_mut(unit as usize) {
            *sent = sequence + 1;
        }
    }

    /// Units of the object that somebody who had heard nothing from sequence `heard` on may still receive.
    pub(super) fn in_flight(&self, object: u32, heard: u64) -> InFlight<'_> {
        let entry = self
            .objects
            .get(&object)
            .filter(|entry| entry.newest > heard);
        InFlight {
            sent: entry.map_or(&[], |entry| &entry.sent),
            heard,
        }
    }
}

/// See [`History::in_flight`].
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight<'a> {
    sent: &'a [u64],
    heard: u64,
}

impl InFlight<'_> {
    /// Whether the unit was sent at `heard` or later.
    pub(super) fn contains(&self, unit: u32) -> bool {
        self.sent
            .get(unit as usize)
            .is_some_and(|&sent| sent > self.heard)
    }

    /// Whether no unit was.
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_had_not_heard_is_in_flight() {
        let mut history = History::default();
        history.begin(3, 10);
        history.note(3, 0, 100);
        history.note(3, 1, 101);
        assert!(history.in_flight(3, 101).contains(1));
        assert!(!history.in_flight(3, 101).contains(0));
        assert!(!history.in_flight(3, 0).contains(2), "never sent");
        assert!(history.in_flight(3, 102).is_empty());
        assert!(history.in_flight(4, 0).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut history = History::default();
        for object in 0..1000 {
            history.begin(object, 2000);
            history.note(object, 7, u64::from(object) + 1);
            assert!(history.units <= CAPACITY);
        }
        history.begin(990, 2000);
        assert_eq!(history.units, history.objects.len() * 2000);
        assert!(history.in_flight(999, 0).contains(7) && history.in_flight(990, 0).contains(7));
        assert!(history.in_flight(0, 0).is_empty());
        history.begin(1, u32::try_from(CAPACITY).unwrap() + 1);
        assert_eq!(
            history.objects.len(),
            1,
            "an object larger than the memory is kept alone"
        );
    }
}
