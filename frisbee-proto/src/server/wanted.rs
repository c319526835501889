//! What clients want, merged into one set, and the order in which it is served.
//!
//! Whole objects are served in ascending order, round and round, from a cursor that only ever moves on: every client
//! that lacks an object takes it in the same pass. Repairs come first, because they set buffers of clients free, but
//! after one object's worth of them a whole object has its turn: repairs that a forger asks for starve nobody.
//!
//! Parity blocks are wanted by their number alone: which ones is decided here, so that one serves every client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chunkfmt::path;

use super::history::InFlight;
use super::{Loaded, Parity};
use crate::bits::Bits;
use crate::layout::{Layout, Unit};

/// Units of repair after which a whole object is due: about the largest object.
const REPAIRS_IN_A_ROW: u32 = 2048;

/// The merged wants. Memory: one bit per unit of each object that has repairs wanted, and a few bytes for each object
/// that had.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    whole: BTreeSet<u32>,
    repairs: BTreeMap<u32, Repair>,
    /// The parity block of each object that is taken next. They go round, so that all come before one comes again.
    next_parity: BTreeMap<u32, u16>,
    /// The object being sent; or object 0, and behind it the object that it interrupts.
    jobs: Vec<Job>,
    /// Where the search for the next whole object begins.
    cursor: u32,
    repair_cursor: u32,
    /// Units of repair served since the last whole object.
    repaired: u32,
}

/// What is wanted of an object beside the whole of it.
#[derive(Debug)]
struct Repair {
    units: Bits,
    /// Parity blocks among them.
    parity: u16,
}

/// What a job takes its units from.
#[derive(Clone, Debug)]
pub(super) struct Supply {
    pub(super) loaded: Arc<Loaded>,
    /// There if it is needed.
    pub(super) parity: Option<Arc<Parity>>,
}

/// An object being sent.
#[derive(Debug)]
struct Job {
    object: u32,
    repair: bool,
    layout: Layout,
    supply: Supply,
    units: Bits,
    next: u32,
    /// Parity blocks still to come.
    parity: u16,
}

/// One unit to be sent.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) object: u32,
    pub(super) supply: Supply,
    pub(super) unit: Unit,
    /// Its number in the layout.
    pub(super) number: u32,
    /// Parity blocks of the object that come behind it.
    pub(super) parity: u16,
    /// Sent to repair an object.
    pub(super) repair: bool,
}

/// An object that may be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) object: u32,
    pub(super) whole: bool,
    /// Parity blocks are wanted of it.
    pub(super) parity: bool,
}

impl Wanted {
    /// Wants one unit, unless it is in flight or queued already.
    pub(super) fn want(
        &mut self,
        object: u32,
        layout: &Layout,
        unit: u32,
        in_flight: InFlight<'_>,
    ) {
        let covered = |job: &Job| job.object == object && unit >= job.next && job.units.get(unit);
        if in_flight.contains(unit)
            || (unit < layout.whole() && self.whole.contains(&object))
            || self.jobs.iter().any(covered)
        {
            return;
        }
        self.repair(object, layout).units.set(unit);
    }

    /// Wants parity blocks, so many more than are in flight or queued already. Returns how many were queued.
    pub(super) fn want_parity(
        &mut self,
        object: u32,
        layout: &Layout,
        count: u16,
        in_flight: InFlight<'_>,
    ) -> u16 {
        if layout.parity() == 0 || self.whole.contains(&object) {
            return 0;
        }
        let first = layout.first_parity();
        let flying = (first..layout.units())
            .filter(|&unit| in_flight.contains(unit))
            .count();
        let flying = u16::try_from(flying).unwrap_or(u16::MAX);
        let coming = flying.saturating_add(self.parity_queued(object));
        let wanted = count.saturating_sub(coming).min(layout.parity());
        let mut more = wanted;
        let mut place = self.next_parity.get(&object).copied().unwrap_or(0);
        for _ in 0..layout.parity() {
            if more == 0 {
                break;
            }
            let unit = first + u32::from(place);
            let is_coming =
                |job: &Job| job.object == object && unit >= job.next && job.units.get(unit);
            if !in_flight.contains(unit) && !self.jobs.iter().any(is_coming) {
                let repair = self.repair(object, layout);
                if repair.units.set(unit) {
                    repair.parity += 1;
                    more -= 1;
                }
            }
            place = if place + 1 < layout.parity() {
                place + 1
            } else {
                0
            };
        }
        self.next_parity.insert(object, place);
        wanted - more
    }

    /// Parity blocks of an object that are going to be sent.
    fn parity_queued(&self, object: u32) -> u16 {
        let sending = self.jobs.iter().filter(|job| job.object == object);
        let waiting = self.repairs.get(&object).map_or(0, |repair| repair.parity);
        sending
            .map(|job| job.parity)
            .fold(waiting, u16::saturating_add)
    }

    /// Objects of which parity blocks are going to be sent, the next ones first, and how many.
    pub(super) fn parity(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        let sending = self.jobs.iter().rev().map(|job| job.object);
        let waiting = rotate(self.repair_cursor, |range| {
            self.repairs.range(range).map(|(&object, _)| object)
        });
        let is_sent = |object: &u32| self.jobs.iter().any(|job| job.object == *object);
        let all = sending.chain(waiting.filter(move |object| !is_sent(object)));
        all.map(|object| (object, self.parity_queued(object)))
            .filter(|&(_, parity)| parity > 0)
    }

    /// There are no parity blocks of this object to be had.
    pub(super) fn forget_parity(&mut self, object: u32, layout: &Layout) {
        if let Some(repair) = self.repairs.get_mut(&object) {
            (layout.first_parity()..layout.units()).for_each(|unit| _ = repair.units.clear(unit));
            repair.parity = 0;
            if repair.units.is_empty() {
                self.repairs.remove(&object);
            }
        }
    }

    fn repair(&mut self, object: u32, layout: &Layout) -> &mut Repair {
        self.repairs.entry(object).or_insert_with(|| Repair {
            units: Bits::new(layout.units()),
            parity: 0,
        })
    }

    /// Wants all units of an object but those of level 0. Of an object that is under way it is the rest that counts
    /// as a repair. So does all of object 0: without it a client can take nothing else.
    pub(super) fn want_whole(&mut self, object: u32, layout: &Layout, in_flight: InFlight<'_>) {
        let under_way = !in_flight.is_empty() || self.jobs.iter().any(|job| job.object == object);
        if self.whole.contains(&object) {
            return;
        }
        if under_way || object == 0 {
            (0..layout.whole()).for_each(|unit| self.want(object, layout, unit, in_flight));
            return;
        }
        self.whole.insert(object);
        self.forget_parity(object, layout);
        if let Some(repair) = self.repairs.get_mut(&object) {
            (0..layout.whole()).for_each(|unit| _ = repair.units.clear(unit));
            if repair.units.is_empty() {
                self.repairs.remove(&object);
            }
        }
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, object: u32) {
        self.whole.remove(&object);
        self.repairs.remove(&object);
    }

    /// Whether nothing is wanted, and nothing being sent.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.whole.is_empty() && self.repairs.is_empty()
    }

    /// Whether whole objects are wanted, beside those being sent.
    pub(super) fn wants_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Whether something of object 0 is wanted or being sent.
    pub(super) fn wants_manifest(&self) -> bool {
        self.repairs.contains_key(&0) || self.jobs.iter().any(|job| job.object == 0)
    }

    /// Objects that have something wanted, the one being sent included.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.repairs.len() + self.jobs.len()
    }

    /// The object that is sent whole next, or the place where the order has got to.
    pub(super) fn cursor(&self) -> u32 {
        self.next_whole().next().unwrap_or(self.cursor)
    }

    /// Whether an object is going to be sent whole.
    pub(super) fn promises(&self, object: u32) -> bool {
        self.whole.contains(&object)
    }

    /// Whether an object is being sent.
    pub(super) fn is_sending(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether the next unit of the object being sent is a parity block, and how many values its path may have; `None` if
    /// nothing is being sent.
    pub(super) fn next_depth(&self) -> Option<Option<usize>> {
        let job = self.jobs.last()?;
        let unit = job.units.next(job.next)?;
        let is_parity = unit >= job.layout.first_parity();
        Some(is_parity.then(|| path::depth(job.layout.parity().into())))
    }

    /// The next unit of the object being sent. With the last one the job ends.
    pub(super) fn next_unit(&mut self) -> Option<Next> {
        let job = self.jobs.last_mut()?;
        let number = job.units.next(job.next)?;
        let unit = job.layout.unit(number);
        job.next = number + 1;
        job.parity -= u16::from(matches!(unit, Some(Unit::Parity(_))));
        self.repaired = self.repaired.saturating_add(u32::from(job.repair));
        let next = unit.map(|unit| Next {
            object: job.object,
            supply: job.supply.clone(),
            unit,
            number,
            parity: job.parity,
            repair: job.repair,
        });
        if job.units.next(job.next).is_none() {
            self.jobs.pop();
        }
        next
    }

    /// Object 0, if it is wanted while another one is being sent: who lacks it misses all that is sent meanwhile. Not
    /// when a whole object is due, so this starves nobody either.
    pub(super) fn interruption(&self) -> Option<Candidate> {
        let interruptible = self.jobs.last().is_some_and(|job| job.object != 0);
        let urgent = self.repairs.contains_key(&0) && self.repaired < REPAIRS_IN_A_ROW;
        (interruptible && urgent).then_some(Candidate {
            object: 0,
            whole: false,
            parity: false,
        })
    }

    /// What may be sent after the present job, in order of preference: repairs and whole objects in turn.
    pub(super) fn candidates(&self, each: usize) -> impl Iterator<Item = Candidate> + '_ {
        let whole_due = self.repaired >= REPAIRS_IN_A_ROW;
        let repairs = rotate(self.repair_cursor, |range| self.repairs.range(range));
        let mut repairs = repairs.take(each).map(|(&object, repair)| Candidate {
            object,
            whole: false,
            parity: repair.parity > 0,
        });
        let mut whole = self.next_whole().take(each).map(|object| Candidate {
            object,
            whole: true,
            parity: false,
        });
        let first = if whole_due { whole.next() } else { None };
        let rest = std::iter::from_fn(move || Some([repairs.next(), whole.next()]))
            .take(each)
            .flatten()
            .flatten();
        first.into_iter().chain(rest)
    }

    /// Begins with one of the candidates, or with the interruption.
    pub(super) fn begin(&mut self, candidate: Candidate, layout: Layout, supply: Supply) {
        let Candidate { object, whole, .. } = candidate;
        let (units, parity) = if whole {
            self.whole.remove(&object);
            self.cursor = object.wrapping_add(1);
            self.repaired = 0;
            (Bits::full(layout.whole()), 0)
        } else {
            let Some(repair) = self.repairs.remove(&object) else {
                return;
            };
            self.repair_cursor = object.wrapping_add(1);
            (repair.units, repair.parity)
        };
        self.jobs.push(Job {
            object,
            repair: !whole,
            layout,
            supply,
            units,
            next: 0,
            parity,
        });
    }

    fn next_whole(&self) -> impl Iterator<Item = u32> + '_ {
        rotate(self.cursor, |range| self.whole.range(range).copied())
    }
}

/// What stands at `cursor` and after it, then what stands before it.
fn rotate<I: Iterator>(
    cursor: u32,
    range: impl Fn((std::ops::Bound<u32>, std::ops::Bound<u32>)) -> I,
) -> impl Iterator<Item = I::Item> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    range((Included(cursor), Unbounded)).chain(range((Unbounded, Excluded(cursor))))
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::*;

    fn supply() -> Supply {
        Supply {
            loaded: Arc::new(Loaded::new(vec![0; 1024]).unwrap()),
            parity: None,
        }
    }

    fn order(wanted: &mut Wanted, layout: Layout) -> Vec<(u32, usize)> {
        let mut order = Vec::new();
        loop {
            let Some(candidate) = wanted.candidates(1).next() else {
                return order;
            };
            wanted.begin(candidate, layout, supply());
            let mut units = 0;
            while wanted.next_unit().is_some() {
                units += 1;
            }
            order.push((candidate.object, units));
        }
    }

    #[test]
    fn whole_objects_go_round_and_repairs_come_first() {
        let (history, layout) = (History::default(), Layout::new(20, 40).unwrap());
        let nothing = history.in_flight(0, 0);
        let mut wanted = Wanted::default();
        for object in [7, 5, 9] {
            wanted.want_whole(object, &layout, nothing);
        }
        assert_eq!(order(&mut wanted, layout), [(5, 21), (7, 21), (9, 21)]);
        for object in [2, 10, 7] {
            wanted.want_whole(object, &layout, nothing);
        }
        wanted.want(4, &layout, 3, nothing);
        wanted.want(4, &layout, 3, nothing);
        wanted.want(10, &layout, 3, nothing);
        wanted.want(7, &layout, layout.whole(), nothing);
        assert_eq!(wanted.cursor(), 10);
        assert_eq!(
            order(&mut wanted, layout),
            [(4, 1), (7, 1), (10, 21), (2, 21), (7, 21)]
        );
        assert!(wanted.is_empty());
    }

    #[test]
    fn repairs_without_end_do_not_starve_whole_objects() {
        let (history, layout) = (History::default(), Layout::new(1000, 40).unwrap());
        let nothing = history.in_flight(0, 0);
        let mut wanted = Wanted::default();
        wanted.want_whole(9, &layout, nothing);
        let mut repairs = 0;
        loop {
            for unit in 0..layout.whole() {
                wanted.want(3, &layout, unit, nothing);
            }
            let candidate = wanted.candidates(2).next().unwrap();
            wanted.begin(candidate, layout, supply());
            while wanted.next_unit().is_some() {}
            if candidate.whole {
                break;
            }
            repairs += 1;
        }
        assert_eq!(repairs, 3);
    }

    #[test]
    fn the_manifest_interrupts_but_not_for_ever() {
        let (history, layout) = (History::default(), Layout::new(2000, 40).unwrap());
        let nothing = history.in_flight(0, 0);
        let mut wanted = Wanted::default();
        for object in 1..9 {
            wanted.want_whole(object, &layout, nothing);
        }
        let (mut manifest, mut others) = (0, 0);
        while !wanted.whole.is_empty() {
            wanted.want(0, &layout, 5, nothing);
            let next = wanted.interruption();
            if !wanted.is_sending() || next.is_some() {
                let candidate = next.or_else(|| wanted.candidates(1).next()).unwrap();
                wanted.begin(candidate, layout, supply());
            }
            let object = wanted.next_unit().unwrap().object;
            *(if object == 0 {
                &mut manifest
            } else {
                &mut others
            }) += 1;
        }
        assert!(
            others > 7 * 2000 && manifest <= 8 * REPAIRS_IN_A_ROW,
            "{manifest} and {others}"
        );
    }

    #[test]
    fn what_is_in_flight_or_still_to_come_is_not_queued_again() {
        let (mut history, layout) = (History::default(), Layout::new(100, 40).unwrap());
        let mut wanted = Wanted::default();
        wanted.want_whole(1, &layout, history.in_flight(1, 0));
        let candidate = wanted.candidates(1).next().unwrap();
        wanted.begin(candidate, layout, supply());
        history.begin(1, layout.units());
        for sequence in 1000..1050 {
            let next = wanted.next_unit().unwrap();
            history.note(1, next.number, sequence);
        }
        wanted.want_whole(1, &layout, history.in_flight(1, 1020));
        assert_eq!(wanted.repairs[&1].units.count(), 20);
        assert_eq!(wanted.repairs[&1].units.next_clear(0), Some(20));
        while wanted.next_unit().is_some() {}
        assert_eq!(order(&mut wanted, layout), [(1, 20)]);
    }

    /// The parity blocks that come of what is queued.
    fn parity(wanted: &mut Wanted, layout: Layout) -> Vec<(u16, u16)> {
        let candidate = wanted.candidates(1).next().unwrap();
        assert!(candidate.parity);
        wanted.begin(candidate, layout, supply());
        std::iter::from_fn(|| wanted.next_unit())
            .map(|next| match next.unit {
                Unit::Parity(index) => (index, next.parity),
                unit => panic!("{unit:?}"),
            })
            .collect()
    }

    #[test]
    fn parity_is_as_much_as_the_neediest_wants_and_goes_round() {
        let (mut history, layout) = (History::default(), Layout::new(100, 10).unwrap());
        let mut wanted = Wanted::default();
        for count in [3, 4, 2] {
            wanted.want_parity(1, &layout, count, history.in_flight(1, 0));
        }
        assert_eq!(wanted.parity().collect::<Vec<_>>(), [(1, 4)]);
        let sent = parity(&mut wanted, layout);
        assert_eq!(sent, [(0, 3), (1, 2), (2, 1), (3, 0)]);
        assert!(wanted.is_empty());
        history.begin(1, layout.units());
        for (sequence, (index, _)) in (100..).zip(sent) {
            history.note(1, layout.number(Unit::Parity(index)).unwrap(), sequence);
        }
        // Of the four, this client has heard of two only.
        wanted.want_parity(1, &layout, 5, history.in_flight(1, 102));
        assert_eq!(parity(&mut wanted, layout), [(4, 2), (5, 1), (6, 0)]);
        wanted.want_parity(1, &layout, 2, history.in_flight(1, 102));
        assert!(wanted.is_empty());
        wanted.want_parity(1, &layout, 5, history.in_flight(1, 1000));
        let round: Vec<u16> = parity(&mut wanted, layout)
            .iter()
            .map(|sent| sent.0)
            .collect();
        assert_eq!(round, [0, 1, 7, 8, 9]);
        wanted.want_parity(1, &layout, 500, history.in_flight(1, 1000));
        assert_eq!(wanted.parity().collect::<Vec<_>>(), [(1, 10)]);
        wanted.forget_parity(1, &layout);
        assert!(wanted.is_empty());
    }
}
