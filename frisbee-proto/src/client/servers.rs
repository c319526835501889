//! The few servers known for the chosen image, and which of them is asked.
//!
//! A server is known by the source address, stream number and request address of its ANNOUNCEs, which carry the very head that was
//! admitted. Anyone can send a copy of it, so being known means nothing: a server that has delivered something stays,
//! one that was asked in vain leaves first.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sequence::Sequence;
use super::timing::{DEAD, STALLED};
use crate::wire::Announce;

const MAX_KNOWN: usize = 8;
/// A server that was silent for so long is not asked: five ANNOUNCEs of an idle one.
const SILENT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Known {
    source: SocketAddr,
    stream: u16,
    pub(super) sequence: Sequence,
    /// The newest ANNOUNCE; promises that have come true since are taken out of it.
    pub(super) announce: Announce,
    heard: Instant,
    /// When an ANNOUNCE that is not older than the one before came, for the round trip.
    announced: Instant,
    /// When something that came from it was proven.
    useful: Option<Instant>,
    /// Blocks proven with what came from it.
    proven: u64,
    /// It was asked, and left because nothing came.
    failed: bool,
}

impl Known {
    /// Blocks proven with what came from it.
    pub(super) fn proven(&self) -> u64 {
        self.proven
    }

    fn is(&self, source: SocketAddr, stream: u16) -> bool {
        self.stream == stream && self.source == source
    }

    /// Number of its run.
    pub(super) fn stream(&self) -> u16 {
        self.stream
    }

    /// The time in its newest ANNOUNCE, and the microseconds since that came.
    pub(super) fn echo(&self, now: Instant) -> (u32, u32) {
        let held = now.saturating_duration_since(self.announced).as_micros();
        (
            self.announce.time,
            u32::try_from(held)
                .unwrap_or(u32::MAX - 1)
                .min(u32::MAX - 1),
        )
    }

    /// Where it takes requests.
    pub(super) fn requests(&self) -> SocketAddr {
        self.announce.request_address.unwrap_or(self.source)
    }

    /// An object that was promised is passing: it is promised no longer.
    pub(super) fn passing(&mut self, object: u32) {
        if let Some(place) = object.checked_sub(self.announce.cursor)
            && let Some(byte) = self.announce.promise.get_mut((place / 8) as usize)
        {
            *byte &= !(1 << (place % 8));
        }
    }
}

/// What an ANNOUNCE told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The server being asked.
    Current,
    /// Another known one.
    Other,
    /// One that was not known.
    New,
}

#[derive(Debug)]
pub(super) struct Servers {
    known: Vec<Known>,
    current: usize,
}

impl Servers {
    /// The server whose ANNOUNCE was admitted is the first one asked.
    pub(super) fn new(
        now: Instant,
        source: SocketAddr,
        stream: u16,
        sequence: u32,
        announce: Announce,
    ) -> Self {
        Self {
            known: vec![Known::new(now, source, stream, sequence, announce)],
            current: 0,
        }
    }

    /// The server being asked.
    pub(super) fn current(&self) -> &Known {
        &self.known[self.current]
    }

    pub(super) fn current_mut(&mut self) -> &mut Known {
        &mut self.known[self.current]
    }

    /// Takes an ANNOUNCE with the admitted head.
    pub(super) fn announce(
        &mut self,
        now: Instant,
        source: SocketAddr,
        stream: u16,
        sequence: u32,
        announce: Announce,
        random: &mut fastrand::Rng,
    ) -> Heard {
        let requests = announce.request_address;
        let same =
            |known: &Known| known.is(source, stream) && known.announce.request_address == requests;
        if let Some(index) = self.known.iter().position(same) {
            let known = &mut self.known[index];
            if known.sequence.take(sequence) {
                (known.announce, known.announced) = (announce, now);
            }
            known.heard = now;
            return if index == self.current {
                Heard::Current
            } else {
                Heard::Other
            };
        }
        let new = Known::new(now, source, stream, sequence, announce);
        if self.known.len() < MAX_KNOWN {
            self.known.push(new);
            return Heard::New;
        }
        let silent = |known: &Known| now.saturating_duration_since(known.heard) > SILENT;
        let victims = |replaceable: &dyn Fn(&Known) -> bool| -> Vec<usize> {
            let known = self.known.iter().enumerate();
            let others =
                known.filter(|(index, known)| *index != self.current && replaceable(known));
            others.map(|(index, _)| index).collect()
        };
        // A newcomer has shown nothing: it takes the place of one that has shown less than nothing.
        let idle = |known: &Known| {
            known.failed
                && known
                    .useful
                    .is_none_or(|at| now.saturating_duration_since(at) > SILENT)
        };
        let worthless = |known: &Known| silent(known) || idle(known);
        let never = victims(&|known| worthless(known) && known.useful.is_none());
        match random
            .choice(never)
            .or_else(|| random.choice(victims(&worthless)))
        {
            Some(victim) => {
                self.known[victim] = new;
                Heard::New
            }
            None => Heard::Other,
        }
    }

    /// Takes the number of a DATA or PROOF. Returns whether it is of the server being asked and moved its stream on.
    pub(super) fn take(&mut self, source: SocketAddr, stream: u16, sequence: u32) -> bool {
        let mut moved = false;
        for (index, known) in self.known.iter_mut().enumerate() {
            if known.is(source, stream) {
                moved |= known.sequence.take(sequence) && index == self.current;
            }
        }
        moved
    }

    /// Something that came from this server proved so many blocks. True if it is the one being asked.
    pub(super) fn useful(
        &mut self,
        now: Instant,
        source: SocketAddr,
        stream: u16,
        blocks: u32,
    ) -> bool {
        let Some(index) = self.find(source, stream) else {
            return false;
        };
        let known = &mut self.known[index];
        (known.useful, known.failed) = (Some(now), false);
        known.proven = known.proven.saturating_add(u64::from(blocks));
        index == self.current
    }

    /// Goes over to this server. False if it is not known, or is asked already.
    pub(super) fn select(&mut self, source: SocketAddr, stream: u16) -> bool {
        let found = self
            .known
            .iter()
            .position(|known| known.is(source, stream) && known.announce.lane);
        match found {
            Some(index) if index != self.current => {
                self.current = index;
                true
            }
            _ => false,
        }
    }

    /// Goes over to a server that delivers to the group now. False if there is none.
    pub(super) fn select_delivering(&mut self, now: Instant) -> bool {
        let group = (0..self.known.len()).filter(|&index| !self.known[index].announce.lane);
        let found = self.delivering(now, group);
        found.map(|index| self.current = index).is_some()
    }

    /// Where the server of the group that was heard last takes requests.
    pub(super) fn of_group(&self) -> Option<SocketAddr> {
        let group = self.known.iter().filter(|known| !known.announce.lane);
        group.max_by_key(|known| known.heard).map(Known::requests)
    }

    /// Whether the present server delivered something a moment ago, though not just now: no reason to leave it for one
    /// that has only announced itself.
    pub(super) fn is_delivering(&self, now: Instant) -> bool {
        let useful = self.current().useful;
        useful.is_some_and(|at| now.saturating_duration_since(at) < DEAD)
    }

    /// How long the present server may be asked in vain: longer if it has delivered before, and no other one does now.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let others = (0..self.known.len()).filter(|&index| index != self.current);
        let replaceable = self.current().useful.is_none() || self.delivering(now, others).is_some();
        if replaceable { STALLED } else { DEAD }
    }

    /// The present server was asked in vain: goes over to another one. The best is one that delivers to others, then
    /// one that has not failed yet; it has to have been heard lately. False if there is none.
    pub(super) fn change(&mut self, now: Instant, random: &mut fastrand::Rng) -> bool {
        let fresh = |known: &Known| {
            !known.announce.lane && now.saturating_duration_since(known.heard) <= SILENT
        };
        let others = (0..self.known.len()).filter(|&index| index != self.current);
        let fresh: Vec<usize> = others.filter(|&index| fresh(&self.known[index])).collect();
        let untried = fresh
            .iter()
            .copied()
            .filter(|&index| !self.known[index].failed);
        let next = self
            .delivering(now, fresh.iter().copied())
            .or_else(|| random.choice(untried.collect::<Vec<_>>()))
            .or_else(|| random.choice(fresh));
        let Some(next) = next else { return false };
        self.known[self.current].failed = true;
        self.current = next;
        true
    }

    /// Of these servers the one that delivered something last, if that was lately.
    fn delivering(&self, now: Instant, of: impl Iterator<Item = usize>) -> Option<usize> {
        let last = of.max_by_key(|&index| self.known[index].useful)?;
        let useful = self.known[last].useful?;
        (now.saturating_duration_since(useful) <= STALLED).then_some(last)
    }

    /// Who is meant by a DATA of this source and stream: of several that differ in the request address only, the one
    /// being asked, or the one known first.
    fn find(&self, source: SocketAddr, stream: u16) -> Option<usize> {
        let is = |index: &usize| self.known[*index].is(source, stream);
        let current = Some(self.current).filter(is);
        current.or_else(|| (0..self.known.len()).find(is))
    }
}

impl Known {
    fn new(
        now: Instant,
        source: SocketAddr,
        stream: u16,
        sequence: u32,
        announce: Announce,
    ) -> Self {
        let sequence = Sequence::new(sequence);
        Self {
            source,
            stream,
            sequence,
            announce,
            heard: now,
            announced: now,
            useful: None,
            proven: 0,
            failed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce() -> Announce {
        Announce {
            rate: 1,
            cursor: 0,
            queued: 0,
            idle: true,
            lane: false,
            promise: [0; 64],
            request_address: None,
            time: 0,
            grtt: 0,
            receivers: 0,
            repairs: Default::default(),
        }
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_failed_only() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut servers = Servers::new(now, address(1), 1, 0, announce());
        for port in 2..2000 {
            servers.announce(now, address(port), 9, 0, announce(), &mut random);
        }
        assert!((2..9).all(|port| servers.find(address(port), 9).is_some()));
        assert!(!servers.is_delivering(now));
        servers.useful(now, address(1), 1, 16);
        assert!(servers.is_delivering(now) && !servers.is_delivering(now + DEAD));
        assert!(servers.change(now, &mut random), "the first one failed");
        let new = |servers: &mut Servers, at, random: &mut _| {
            servers.announce(at, address(3000), 9, 0, announce(), random)
        };
        assert_eq!(new(&mut servers, now, &mut random), Heard::Other);
        assert!(servers.change(now, &mut random) && servers.current().source == address(1));
        assert_eq!(new(&mut servers, now, &mut random), Heard::New);
        assert!(servers.find(address(1), 1).is_some());
    }

    #[test]
    fn copies_of_the_head_do_not_push_out_a_server_that_delivers() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut servers = Servers::new(now, address(1), 1, 0, announce());
        servers.announce(now, address(2), 2, 0, announce(), &mut random);
        servers.useful(now, address(2), 2, 16);
        for port in 3..2000 {
            servers.announce(now, address(port), 9, 0, announce(), &mut random);
            assert!(servers.known.len() <= MAX_KNOWN);
        }
        assert!(servers.find(address(1), 1).is_some(), "the present one");
        assert!(servers.find(address(2), 2).is_some(), "the useful one");
        assert!(servers.change(now, &mut random));
        assert_eq!(servers.current().source, address(2), "it delivers");
        assert!(
            !servers.change(now + SILENT * 2, &mut random),
            "none was heard lately"
        );
    }
}
