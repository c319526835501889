//! Fetching one chosen image: takes what passes, and notices what does not come.
//!
//! Every ask is idempotent and every answer proves itself, so nothing here is about correctness: a wrong guess, a lie
//! in an ANNOUNCE or a lost REQUEST costs time, and the timeouts end it.

mod asking;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chunkfmt::BLOCK_SIZE;

use super::content::Content;
use super::lane::{Need, Unicast};
use super::object::Outcome;
use super::passing::Passing;
use super::servers::{Heard, Servers};
use super::slow::Yield;
use super::stock::{NoPlace, Stock};
use super::timing::{
    CROSSING, DEAD, PATIENCE, REPAIR_LEAST, REPAIR_WAIT, REPORT_DATAGRAMS, RoundTrip, SLOW_TICK,
    STALLED, STUCK, TICK, backoff, heartbeat, report_interval, soon, tells_end,
};
use super::{ClientOutput, ClientStats, Event, Part};
use crate::layout::Unit;
use crate::wire::{Announce, RequestItems};

/// A whole object asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    tries: u32,
    due: bool,
}

/// Counters at the time of the last REQUEST.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    receive_drops: u64,
    no_buffer: u64,
}

#[derive(Debug)]
pub(super) struct Fetch<C: Content> {
    pub(super) uuid: [u8; 16],
    pub(super) head: C::Head,
    pub(super) stock: Stock<C>,
    servers: Servers,
    /// Nothing but object 0 is asked for.
    held: bool,
    asked: BTreeMap<u32, Asked>,
    passing: Passing,
    pub(super) client: u64,
    /// The token of the last CHALLENGE, or 0.
    pub(super) token: u64,
    random: fastrand::Rng,
    trip: RoundTrip,
    /// When the next REQUEST goes out.
    ask_at: Option<Instant>,
    /// When what is outstanding is looked through.
    tick_at: Instant,
    /// When this client showed itself last, or came, and how long it waits to do it again: in heartbeats, so that it waits
    /// longer if others come (RFC 3550, section 6.3.3).
    shown: (Instant, f64),
    /// When the server is told of the datagrams that came since the last REQUEST.
    report_at: Option<Instant>,
    requested: Option<Instant>,
    reported: Reported,
    /// Since when something proven should have come from the server being asked, and has not.
    in_vain: Option<Instant>,
    yields: Yield,
    /// When something was proven last, whoever sent it; or when the image was chosen.
    proven: Instant,
}

impl<C: Content> Fetch<C> {
    pub(super) fn new(
        now: Instant,
        uuid: [u8; 16],
        head: &[u8; BLOCK_SIZE],
        stock: Stock<C>,
        servers: Servers,
        held: bool,
        mut random: fastrand::Rng,
    ) -> Self {
        let (client, beats) = (random.u64(..), random.f64());
        let mut fetch = Self {
            uuid,
            head: C::keep_head(head),
            stock,
            servers,
            held,
            asked: BTreeMap::new(),
            passing: Passing::default(),
            client,
            token: 0,
            random,
            trip: RoundTrip::default(),
            ask_at: None,
            tick_at: now + SLOW_TICK,
            shown: (now, beats),
            report_at: None,
            requested: None,
            reported: Reported::default(),
            in_vain: None,
            yields: Yield::default(),
            proven: now,
        };
        fetch.refill(now);
        fetch
    }

    /// From now on all that is lacking is asked for.
    pub(super) fn go(&mut self, now: Instant) {
        self.held = false;
        self.refill(now);
    }

    /// Where requests go.
    pub(super) fn server(&self) -> SocketAddr {
        self.servers.current().requests()
    }

    /// Whether the manifest does not come, so that another image may be chosen.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.stock.done() == 0 && now.saturating_duration_since(self.proven) >= STUCK
    }

    /// Whether the server being asked sends to this client alone.
    pub(super) fn has_lane(&self) -> bool {
        self.servers.current().announce.lane
    }

    /// What decides whether a lane is needed.
    pub(super) fn need(&self) -> Need {
        // What the disk holds is not known yet: nothing but the manifest is waited for.
        let asks = !self.held || self.stock.done() == 0;
        Need {
            waits: asks && self.expects_something(),
            proven: Some(self.proven),
            has_lane: self.has_lane(),
            server: self.servers.of_group(),
        }
    }

    /// Goes back from a lane to the group, if that is not what was asked for and something useful comes there.
    pub(super) fn leave_lane(&mut self, now: Instant, config: Unicast) -> bool {
        let bound = matches!(config, Unicast::Always(_)) || !self.has_lane();
        let left = !bound && self.servers.select_delivering(now);
        if left {
            self.start_anew(now);
        }
        left
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
        let (idle, lane) = (announce.idle, announce.lane);
        let heard = self
            .servers
            .announce(now, from, stream, sequence, announce, &mut self.random);
        if lane && self.servers.select(from, stream) {
            self.start_anew(now);
            return true;
        }
        match heard {
            Heard::New if self.in_vain_for(now) >= STALLED && !self.servers.is_delivering(now) => {
                return self.change_server(now);
            }
            Heard::New | Heard::Other => return false,
            Heard::Current => {}
        }
        self.moved(now, None);
        let announce = &self.servers.current().announce;
        for (&object, asked) in &mut self.asked {
            if announce.promises(object) {
                asked.at = now;
            }
        }
        for (&object, open) in &mut self.stock.open {
            open.parity_queued = announce.parity_queued(object);
        }
        if idle {
            self.queue_is_empty(now);
        }
        self.refill(now);
        false
    }

    /// Takes a block, the children of a node, or a parity block. Returns the object if it is complete now.
    pub(super) fn take(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (stream, sequence): (u16, u32),
        (object, part): (u32, Part<'_>),
        stats: &mut ClientStats,
    ) -> Option<u32> {
        let moved = self.servers.take(from, stream, sequence);
        if moved {
            self.moved(now, Some((object, part.unit())));
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
        let proven_before = open.incoming.proven_blocks();
        let restored_before = open.incoming.restored();
        let outcome = match part {
            Part::Block(block, payload) => open.incoming.block(block, payload),
            Part::Node(node, payload) => open.incoming.node(node, payload),
            Part::Parity(block) => {
                if moved {
                    open.parity_queued = block.queued;
                }
                open.incoming.parity(&block)
            }
        };
        stats.restored += u64::from(open.incoming.restored() - restored_before);
        stats.forged += open.incoming.forged() - before;
        let proven = open.incoming.proven_blocks() - proven_before;
        stats.proven += u64::from(proven);
        if proven > 0 {
            self.proven = now;
        }
        stats.bad_groups += u64::from(outcome == Outcome::Suspect);
        let suspect = matches!(outcome, Outcome::Suspect | Outcome::Forged);
        match outcome {
            Outcome::New | Outcome::Suspect => {
                stats.blocks += u64::from(!matches!(part, Part::Node(..)));
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
        if proven > 0 && self.servers.useful(now, from, stream, proven) {
            self.in_vain = None;
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
        let asks = [self.ask_at, self.report_at].into_iter().flatten();
        asks.fold(self.tick_at.min(self.heartbeat_at()), Instant::min)
    }

    /// When this client shows itself, if it asks for nothing before.
    fn heartbeat_at(&self) -> Instant {
        let (last, beats) = self.shown;
        last + heartbeat(&self.servers.current().announce).mul_f64(beats)
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
        if self.ask_at.is_some_and(|at| at <= now) || self.heartbeat_at() <= now {
            self.ask(now, out, stats);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.send(now, &RequestItems::default(), false, out, stats);
        }
    }

    /// Tells the server that this client is done, unless enough others do.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        let announce = &self.servers.current().announce;
        if announce.lane || tells_end(announce, &mut self.random) {
            self.send(now, &RequestItems::default(), true, out, stats);
        }
    }

    /// The stream of the present server has moved on, with this unit or with an ANNOUNCE: objects that it left some
    /// time ago get no more in this pass.
    fn moved(&mut self, now: Instant, with: Option<(u32, Unit)>) {
        let next = self.servers.current().sequence.next();
        if let Some((object, unit)) = with {
            self.servers.current_mut().passing(object);
            let number = self.stock.number(object, unit);
            self.passing.at(object, number.unwrap_or(0), next);
        }
        self.schedule_report(now);
        while let Some(object) = self.passing.left_behind(next) {
            if let Some(open) = self.stock.open.get_mut(&object)
                && !open.due
            {
                open.timed = (open.tries == 0).then_some(now);
                self.ask_soon(now, object);
            }
        }
    }

    /// Datagrams have come that the server is to be told of: its rate follows such reports.
    fn schedule_report(&mut self, now: Instant) {
        let server = self.servers.current();
        if self.report_at.is_some() || server.sequence.unreported() < REPORT_DATAGRAMS {
            return;
        }
        let announce = &server.announce;
        if let Some(interval) = report_interval(self.client, announce.receivers, announce.rate) {
            let since = self.requested.unwrap_or(now) + interval / 2;
            self.report_at = Some(soon(since, interval, &mut self.random).max(now));
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
            self.schedule_repair(now);
        }
    }

    /// An open object goes into the next REQUEST.
    fn ask_soon(&mut self, now: Instant, object: u32) {
        if let Some(open) = self.stock.open.get_mut(&object) {
            open.due = true;
        }
        self.schedule_repair(now);
    }

    /// What is due is asked for soon, unless somebody else does before.
    fn schedule_repair(&mut self, now: Instant) {
        let announce = &self.servers.current().announce;
        let wait = backoff(REPAIR_WAIT, announce, &mut self.random);
        self.schedule(now + REPAIR_LEAST + wait);
    }

    /// Looks through what is outstanding. True if requests go to another server now.
    fn tick(&mut self, now: Instant) -> bool {
        if self.expects_something() {
            self.in_vain.get_or_insert(now);
        } else {
            self.in_vain = None;
        }
        let vain = self.in_vain_for(now);
        let (_, under_way) = self.spoken_for(now);
        let server = self.servers.current();
        let (rate, proven) = (server.announce.rate, server.proven());
        let slow = self.yields.is_slow(now, under_way, rate, proven);
        let changed = (slow || vain >= self.servers.patience(now)) && self.change_server(now);
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
            let at = soon(now, REPAIR_LEAST, &mut self.random);
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
        self.start_anew(now);
        true
    }

    /// Another server is being asked.
    fn start_anew(&mut self, now: Instant) {
        self.in_vain = Some(now);
        self.yields = Yield::default();
        self.passing = Passing::default();
        self.asked.clear();
        for open in self.stock.open.values_mut() {
            (open.due, open.tries, open.parity_queued) = (true, 0, 0);
        }
        self.schedule_repair(now);
        self.refill(now);
    }
}
