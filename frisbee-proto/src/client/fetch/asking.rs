//! What to ask for: the window of objects under way, and the REQUESTs that keep it filled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::content::Content;
use super::super::requests::Requests;
use super::super::timing::{FIRST_WAIT, PATIENCE, REFILL_WAIT, REQUEST_GAP, backoff};
use super::super::{ClientOutput, ClientStats};
use super::{Asked, Fetch, Reported};
use crate::FRAMING;
use crate::wire::{RequestHead, RequestItems, SEGMENT_SIZE, Stream};

/// Most blocks asked for or promised at a time, credit or not: half a second at 1 Gbit/s.
const MOST_UNDER_WAY: u32 = 64 << 10;
/// Most objects asked for or promised at a time: what a promise covers.
const MOST_OBJECTS: usize = 512;

impl<C: Content> Fetch<C> {
    /// The next REQUEST goes out at this time, or earlier if one was going to.
    pub(super) fn schedule(&mut self, at: Instant) {
        let at = self.requested.map_or(at, |last| at.max(last + REQUEST_GAP));
        self.ask_at = Some(self.ask_at.map_or(at, |before| before.min(at)));
    }

    /// Schedules a REQUEST for more if less than half of what may be under way is.
    pub(super) fn refill(&mut self, now: Instant) {
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
        let announce = &self.servers.current().announce;
        let wait = backoff(wait, announce, &mut self.random);
        self.schedule(now + wait);
    }

    /// Whether the present server is going to send an object whole, as far as it is to be believed.
    fn promised(&self, now: Instant, object: u32) -> bool {
        self.in_vain_for(now) < PATIENCE && self.servers.current().announce.promises(object)
    }

    /// Objects under way that are not open: asked for or promised.
    fn coming(&self, now: Instant) -> impl Iterator<Item = u32> + '_ {
        let cursor = self.servers.current().announce.cursor;
        let end = cursor.saturating_add(crate::wire::PROMISE_OBJECTS);
        let window = cursor..end.min(self.stock.objects());
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
    pub(super) fn spoken_for(&self, now: Instant) -> (u32, u32) {
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
            .filter(|&object| object == 0 || !self.held)
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
    pub(super) fn ask(
        &mut self,
        now: Instant,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        self.ask_at = None;
        let mut requests = Requests::default();
        let mut complete = true;
        let promises_count = self.in_vain_for(now) < PATIENCE;
        for (&object, open) in self.stock.open.iter_mut().filter(|(_, open)| open.due) {
            let parity = open.incoming.parity_wanted(open.tries);
            if promises_count
                && parity.is_some_and(|count| count <= open.parity_queued)
                && open.incoming.proofs_missing().next().is_none()
            {
                // Somebody else has asked for as much.
                (open.due, open.touched) = (false, now);
                continue;
            }
            complete = complete
                && requests.nodes(object, open.incoming.proofs_missing())
                && match parity {
                    Some(count) => requests.parity(object, count),
                    None => requests.blocks(object, open.incoming.missing()),
                };
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
        let wanted = if complete {
            self.wanted(now)
        } else {
            Vec::new()
        };
        for object in wanted {
            complete = requests.whole(object);
            if !complete {
                break;
            }
            let asked = Asked {
                at: now,
                tries: 1,
                due: false,
            };
            self.asked.insert(object, asked);
        }
        let requests = requests.finish();
        if requests.is_empty() {
            if self.heartbeat_at() <= now {
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

    pub(super) fn send(
        &mut self,
        now: Instant,
        items: &RequestItems,
        done: bool,
        out: &mut VecDeque<ClientOutput>,
        stats: &mut ClientStats,
    ) {
        let dropped = stats
            .receive_drops
            .saturating_sub(self.reported.receive_drops);
        let no_buffer = stats.no_buffer.saturating_sub(self.reported.no_buffer);
        self.reported = Reported {
            receive_drops: stats.receive_drops,
            no_buffer: stats.no_buffer,
        };
        let server = self.servers.current_mut();
        let (received, lost) = server.sequence.report();
        let head = RequestHead {
            client: self.client,
            done,
            received,
            lost,
            free_blocks: self.stock.credit().saturating_sub(self.stock.in_use()),
            objects_done: self.stock.done(),
            objects_written: self.stock.written(),
            dropped: u32::try_from(dropped).unwrap_or(u32::MAX),
            no_buffer: u32::try_from(no_buffer).unwrap_or(u32::MAX),
            echo: Some(server.echo(now)),
            unicast: server.announce.lane,
            token: self.token,
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
        (self.requested, self.report_at) = (Some(now), None);
        self.shown = (now, 1.0 + self.random.f64());
    }
}
