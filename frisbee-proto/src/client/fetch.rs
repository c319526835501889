//! Fetching one chosen image: takes what passes, and decides when to ask for what.
//!
//! Every ask is idempotent and every answer proves itself, so nothing here is about correctness: a wrong guess, a lie
//! in an ANNOUNCE or a lost REQUEST costs time, and the timeouts end it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chunkfmt::BLOCK_SIZE;

use super::object::Outcome;
use super::requests::Requests;
use super::servers::{Heard, Servers};
use super::stock::{NoPlace, Stock};
use super::timing::{
    CROSSING, DEAD, FIRST_WAIT, HEARTBEAT, PATIENCE, REFILL_WAIT, REPAIR_WAIT, REQUEST_GAP,
    RoundTrip, SLOW_TICK, STALLED, TICK, soon,
};
use super::{ClientOutput, ClientStats, Event};
use crate::FRAMING;
use crate::layout::{Layout, Unit};
use crate::wire::{Announce, RequestHead, RequestItems, SEGMENT_SIZE, Stream};

/// Datagrams that may overtake another one. After so many of other objects the pass over an object is over.
const REORDERED: u32 = 32;
/// Most blocks asked for or promised at a time, credit or not: half a second at 1 Gbit/s.
const MOST_UNDER_WAY: u32 = 64 << 10;
/// Most objects asked for or promised at a time: what a promise covers.
const MOST_OBJECTS: usize = 512;

/// A whole object asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    tries: u32,
    due: bool,
}

/// Where the stream of the server being asked is.
#[derive(Debug, Default)]
struct Passing {
    /// The object and unit that came last.
    last: Option<(u32, u32)>,
    /// Objects that it has left, and the sequence at which it did.
    left: VecDeque<(u32, u32)>,
}

#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) uuid: [u8; 16],
    pub(super) head: Box<[u8; BLOCK_SIZE]>,
    pub(super) stock: Stock,
    servers: Servers,
    asked: BTreeMap<u32, Asked>,
    passing: Passing,
    client: u64,
    random: fastrand::Rng,
    trip: RoundTrip,
    /// When the next REQUEST goes out.
    ask_at: Option<Instant>,
    /// When what is outstanding is looked through.
    tick_at: Instant,
    heartbeat_at: Instant,
    requested: Option<Instant>,
    /// Since when something useful should have come and has not.
    in_vain: Option<Instant>,
}

impl Fetch {
    pub(super) fn new(
        now: Instant,
        uuid: [u8; 16],
        head: &[u8; BLOCK_SIZE],
        stock: Stock,
        servers: Servers,
        mut random: fastrand::Rng,
    ) -> Self {
        let mut fetch = Self {
            uuid,
            head: Box::new(*head),
            stock,
            servers,
            asked: BTreeMap::new(),
            passing: Passing::default(),
            client: random.u64(..),
            random,
            trip: RoundTrip::default(),
            ask_at: None,
            tick_at: now + SLOW_TICK,
            heartbeat_at: now + HEARTBEAT,
            requested: None,
            in_vain: None,
        };
        fetch.refill(now);
        fetch
    }

    /// Where requests go.
    pub(super) fn server(&self) -> SocketAddr {
        self.servers.current().requests()
    }

    /// Takes an ANNOUNCE with the admitted head. True if requests go to another server now.
    pub(super) fn announce(
        &mut self,
        now: Instant,
        from: SocketAddr,
        stream: u16,
        sequence: u32,
        announce: Announce,
    ) -> bool {
        let idle = announce.idle;
        let heard = self
            .servers
            .announce(now, from, stream, sequence, announce, &mut self.random);
        match heard {
            Heard::New if self.in_vain_for(now) >= STALLED => return self.change_server(now),
            Heard::New | Heard::Other => return false,
            Heard::Current => {}
        }
        self.moved(now, None);
        for (&object, asked) in &mut self.asked {
            if self.servers.current().announce.promises(object) {
                asked.at = now;
            }
        }
        if idle {
            self.queue_is_empty(now);
        }
        self.refill(now);
        false
    }

    /// Takes a block or the children of a node. Returns the object if it is complete now.
    pub(super) fn unit(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (stream, sequence): (u16, u32),
        (object, unit): (u32, Unit),
        payload: &[u8; BLOCK_SIZE],
        stats: &mut ClientStats,
    ) -> Option<u32> {
        if self.servers.take(from, stream, sequence) {
            self.moved(now, Some((object, unit)));
        }
        let (open, opened) = match self.stock.place(now, object) {
            Ok(found) => found,
            Err(reason) => {
                *match reason {
                    NoPlace::Unknown => &mut stats.foreign,
                    NoPlace::Done => &mut stats.duplicates,
                    NoPlace::Credit => &mut stats.no_buffer,
                } += 1;
                return None;
            }
        };
        let before = open.incoming.forged();
        let outcome = match unit {
            Unit::Block(block) => open.incoming.block(block, payload),
            Unit::Node(node) => open.incoming.node(node, payload),
        };
        stats.forged += open.incoming.forged() - before;
        stats.bad_groups += u64::from(outcome == Outcome::Suspect);
        let suspect = matches!(outcome, Outcome::Suspect | Outcome::Forged);
        match outcome {
            Outcome::New | Outcome::Suspect => {
                stats.blocks += u64::from(matches!(unit, Unit::Block(_)));
                if let Some(asked) = open.timed.take() {
                    self.trip.sample(now.saturating_duration_since(asked));
                }
                (open.touched, open.tries) = (now, 0);
            }
            Outcome::Duplicate => stats.duplicates += 1,
            Outcome::Impossible => stats.foreign += 1,
            Outcome::Forged => {}
        }
        let complete = open.incoming.is_complete();
        if matches!(outcome, Outcome::New | Outcome::Suspect) {
            self.in_vain = None;
            self.servers.useful(from, stream);
        }
        if opened
            && let Some(asked) = self.asked.remove(&object)
            && asked.tries <= 1
        {
            self.trip.sample(now.saturating_duration_since(asked.at));
        }
        if suspect {
            self.ask_soon(now, object);
        }
        complete.then_some(object)
    }

    /// An object is not needed any more.
    pub(super) fn forget(&mut self, object: u32) {
        self.asked.remove(&object);
    }

    /// The stock has changed: an object was delivered or released, or the manifest has come.
    pub(super) fn stock_changed(&mut self, now: Instant) {
        self.refill(now);
    }

    /// When [`Fetch::timeout`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let regular = self.tick_at.min(self.heartbeat_at);
        self.ask_at.map_or(regular, |at| at.min(regular))
    }

    /// Does what is due.
    pub(super) fn timeout(
        &mut self,
        now: Instant,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        if self.tick_at <= now && self.tick(now) {
            stats.server_changes += 1;
            out.push_back(ClientOutput::Event(Event::Server(self.server())));
        }
        if self.ask_at.is_some_and(|at| at <= now) || self.heartbeat_at <= now {
            self.ask(now, out, stats);
        }
    }

    /// Tells the server that this client is done.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        self.send(now, &RequestItems::default(), true, out, stats);
    }

    /// The stream of the present server has moved on, with this unit or with an ANNOUNCE: objects that it left some
    /// time ago get no more in this pass.
    fn moved(&mut self, now: Instant, with: Option<(u32, Unit)>) {
        let next = self.servers.current().sequence.next();
        if let Some((object, unit)) = with {
            self.servers.current_mut().passing(object);
            let number = Layout::new(self.stock.blocks(object))
                .and_then(|layout| layout.number(unit))
                .unwrap_or(0);
            match self.passing.last {
                Some((last, _)) if last != object => self.passing.left.push_back((last, next)),
                // The same object from an earlier place on: one pass has ended and another begun.
                Some((_, before)) if number.saturating_add(REORDERED) < before => {
                    self.passing.left.push_back((object, next));
                }
                _ => {}
            }
            self.passing.last = Some((object, number));
        }
        while let Some(&(object, at)) = self.passing.left.front()
            && next.wrapping_sub(at) >= REORDERED
        {
            self.passing.left.pop_front();
            if let Some(open) = self.stock.open.get_mut(&object)
                && !open.due
            {
                open.timed = (open.tries == 0).then_some(now);
                self.ask_soon(now, object);
            }
        }
    }

    /// The present server has nothing more to send: what is not here will not come by itself.
    fn queue_is_empty(&mut self, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) >= CROSSING;
        let mut due = false;
        for open in self
            .stock
            .open
            .values_mut()
            .filter(|open| open.asked.is_none_or(old))
        {
            (open.due, due) = (true, true);
        }
        for asked in self.asked.values_mut().filter(|asked| old(asked.at)) {
            (asked.due, due) = (true, true);
        }
        if due {
            let at = soon(now, REPAIR_WAIT, &mut self.random);
            self.schedule(at);
        }
    }

    /// An open object goes into the next REQUEST.
    fn ask_soon(&mut self, now: Instant, object: u32) {
        if let Some(open) = self.stock.open.get_mut(&object) {
            open.due = true;
        }
        let at = soon(now, REPAIR_WAIT, &mut self.random);
        self.schedule(at);
    }

    fn schedule(&mut self, at: Instant) {
        let at = self.requested.map_or(at, |last| at.max(last + REQUEST_GAP));
        self.ask_at = Some(self.ask_at.map_or(at, |before| before.min(at)));
    }

    /// Looks through what is outstanding. True if requests go to another server now.
    fn tick(&mut self, now: Instant) -> bool {
        if self.expects_something() {
            self.in_vain.get_or_insert(now);
        } else {
            self.in_vain = None;
        }
        let vain = self.in_vain_for(now);
        let changed = vain >= self.servers.current().patience() && self.change_server(now);
        let mut next = now + SLOW_TICK;
        let mut due = false;
        let trip = &self.trip;
        let mut check = |at: Instant, tries: u32, promised: bool, flag: &mut bool| {
            let deadline = at + if promised { DEAD } else { trip.timeout(tries) };
            *flag |= deadline <= now;
            due |= *flag;
            next = next.min(deadline);
        };
        let announce = &self.servers.current().announce;
        for (&object, open) in &mut self.stock.open {
            check(
                open.touched,
                open.tries,
                vain < PATIENCE && announce.promises(object),
                &mut open.due,
            );
        }
        for asked in self.asked.values_mut() {
            check(asked.at, asked.tries, false, &mut asked.due);
        }
        self.tick_at = next.max(now + TICK);
        if due {
            let at = soon(now, 0..REPAIR_WAIT.start, &mut self.random);
            self.schedule(at);
        }
        self.refill(now);
        changed
    }

    /// For how long something useful should have come.
    fn in_vain_for(&self, now: Instant) -> Duration {
        self.in_vain
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether there is a place for something that may come.
    fn expects_something(&self) -> bool {
        let mut lacking = self
            .stock
            .lacking_from(self.servers.current().announce.cursor);
        let fits = |object| self.stock.fits(object, self.stock.in_use());
        !self.stock.open.is_empty() || lacking.next().is_some_and(fits)
    }

    /// Goes over to another server: everything outstanding is asked for anew, and no promise of it is known yet.
    fn change_server(&mut self, now: Instant) -> bool {
        if !self.servers.change(now, &mut self.random) {
            return false;
        }
        self.in_vain = Some(now);
        self.passing = Passing::default();
        self.asked.clear();
        for open in self.stock.open.values_mut() {
            (open.due, open.tries) = (true, 0);
        }
        let at = soon(now, REPAIR_WAIT, &mut self.random);
        self.schedule(at);
        self.refill(now);
        true
    }

    /// Schedules a REQUEST for more if less than half of what may be under way is.
    fn refill(&mut self, now: Instant) {
        let (_, under_way) = self.spoken_for(now);
        let most = self.stock.credit().min(MOST_UNDER_WAY);
        if under_way > most / 2 || self.wanted(now).is_empty() {
            return;
        }
        // Others lack the same: the more is under way, the longer we can wait for one of them to ask for it.
        let bits = u64::from(under_way) * (SEGMENT_SIZE + FRAMING) as u64 * 8;
        let drained = Duration::from_micros(
            bits.saturating_mul(1_000_000) / self.servers.current().announce.rate.max(1),
        );
        let wait = (drained / 2).clamp(FIRST_WAIT, REFILL_WAIT);
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let at = soon(now, 0..micros, &mut self.random);
        self.schedule(at);
    }

    /// Whether the present server is going to send an object whole, as far as it is to be believed.
    fn promised(&self, now: Instant, object: u32) -> bool {
        self.in_vain_for(now) < PATIENCE && self.servers.current().announce.promises(object)
    }

    /// Objects under way that are not open: asked for or promised.
    fn coming(&self, now: Instant) -> impl Iterator<Item = u32> + '_ {
        let cursor = self.servers.current().announce.cursor;
        let window = cursor..cursor.saturating_add(crate::wire::PROMISE_OBJECTS);
        let promised = window
            .filter(move |&object| self.stock.is_lacking(object) && self.promised(now, object));
        let unpromised = self
            .asked
            .keys()
            .copied()
            .filter(move |&object| !self.promised(now, object));
        promised.chain(unpromised)
    }

    /// Blocks of the credit that are in use or will be by what is under way; and blocks still to come of that.
    fn spoken_for(&self, now: Instant) -> (u32, u32) {
        let coming = self
            .coming(now)
            .map(|object| self.stock.blocks(object))
            .fold(0, u32::saturating_add);
        let missing = self
            .stock
            .open
            .values()
            .map(|open| open.incoming.blocks_missing())
            .fold(0, u32::saturating_add);
        (
            self.stock.in_use().saturating_add(coming),
            coming.saturating_add(missing),
        )
    }

    /// The next objects to ask for, as many as the credit has room for.
    fn wanted(&self, now: Instant) -> Vec<u32> {
        let (mut spoken_for, mut under_way) = self.spoken_for(now);
        let cursor = self.servers.current().announce.cursor;
        let lacking = self.stock.lacking_from(cursor);
        let lacking = lacking
            .filter(|&object| !self.asked.contains_key(&object) && !self.promised(now, object));
        let fitting = lacking.take_while(|&object| {
            let fits = under_way < MOST_UNDER_WAY && self.stock.fits(object, spoken_for);
            spoken_for = spoken_for.saturating_add(self.stock.blocks(object));
            under_way = under_way.saturating_add(self.stock.blocks(object));
            fits
        });
        fitting
            .take(MOST_OBJECTS.saturating_sub(self.asked.len()))
            .collect()
    }

    /// Sends what is due.
    fn ask(&mut self, now: Instant, out: &mut VecDeque<ClientOutput>, stats: &mut ClientStats) {
        self.ask_at = None;
        let mut requests = Requests::default();
        let mut complete = true;
        for (&object, open) in self.stock.open.iter_mut().filter(|(_, open)| open.due) {
            complete = complete && requests.units(object, open.incoming.missing());
            if !complete {
                break;
            }
            (open.due, open.touched, open.asked, open.tries) =
                (false, now, Some(now), open.tries.saturating_add(1));
        }
        for (&object, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.due) {
            complete = complete && requests.whole(object);
            if !complete {
                break;
            }
            *asked = Asked {
                at: now,
                tries: asked.tries.saturating_add(1),
                due: false,
            };
        }
        for object in if complete {
            self.wanted(now)
        } else {
            Vec::new()
        } {
            complete = complete && requests.whole(object);
            if !complete {
                break;
            }
            self.asked.insert(
                object,
                Asked {
                    at: now,
                    tries: 1,
                    due: false,
                },
            );
        }
        let requests = requests.finish();
        if requests.is_empty() {
            if self.heartbeat_at <= now {
                self.send(now, &RequestItems::default(), false, out, stats);
            }
            return;
        }
        for items in &requests {
            self.send(now, items, false, out, stats);
        }
        self.in_vain.get_or_insert(now);
        self.tick_at = self.tick_at.min(now + self.trip.timeout(0));
        if !complete {
            self.schedule(now + REQUEST_GAP);
        }
    }

    fn send(
        &mut self,
        now: Instant,
        items: &RequestItems,
        done: bool,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        let server = self.servers.current_mut();
        let (received, lost) = server.sequence.report();
        let head = RequestHead {
            client: self.client,
            done,
            received,
            lost,
            free_blocks: self.stock.credit().saturating_sub(self.stock.in_use()),
            objects_done: self.stock.done(),
        };
        let stream = Stream {
            number: server.stream(),
            uuid: self.uuid,
        };
        let datagram = items.encode(&stream, server.sequence.next(), &head);
        out.push_back(ClientOutput::Send {
            to: server.requests(),
            datagram,
        });
        stats.requests += 1;
        stats.lost += u64::from(lost);
        self.requested = Some(now);
        let beat = u64::try_from(HEARTBEAT.as_micros()).unwrap_or(u64::MAX);
        self.heartbeat_at = soon(now, beat..beat * 2, &mut self.random);
    }
}
