//! The server: merges requests, serves them in one rotating order at the paced rate, and announces the image.

mod announcer;
mod cache;
mod history;
mod lanes;
mod pacing;
mod proof;
mod rate;
mod room;
mod service;
mod shared;
mod shelf;
mod site;
mod standby;
mod types;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunkfmt::BLOCK_SIZE;
use chunkfmt::tree::Cv;

use self::announcer::Announcer;
use self::cache::Cache;
use self::history::History;
use self::pacing::Pacer;
pub(crate) use self::pacing::wire_time;
use self::rate::Rate;
use self::room::Room;
pub use self::service::{LaneStats, Service, ServiceConfig, ServiceOutput};
pub use self::site::Site;
pub use self::types::{
    Image, Loaded, Parity, Priority, ServerConfig, ServerOutput, ServerStats, Transmit,
};
use self::wanted::{Candidate, Supply, Wanted};
use crate::layout::{Layout, Unit};
use crate::wire::{
    self, Announce, Item, MAX_REPAIRS, Message, ParityBlock, Repair, RequestHead, SEGMENT_SIZE,
    Stream,
};
use crate::{Error, ObjectInfo};

/// Units that all REQUESTs of one `WORK_INTERVAL` may ask about. More are dropped, as a network would do with them:
/// a flood of REQUESTs costs some 5 % of a processor and does not stop the sending.
const WORK: usize = 100_000;
const WORK_INTERVAL: Duration = Duration::from_millis(10);

/// Parity blocks have this part of the memory that objects have: more of them than an eighth of each object's blocks.
const PARITY_PART: usize = 4;

/// Most bytes of one batch: what UDP segmentation offload takes.
const BATCH_BYTES: usize = 65_000;

/// Longest round trip that is believed.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// When object 0 is asked for while nothing else is wanted, a transfer begins, and all who lose a part of it miss what comes
/// before it is repaired. So long nothing but object 0 is sent: two rounds of asking and repairing in a room.
const BEGINNING: Duration = Duration::from_millis(60);
/// And so much longer after each REQUEST for it in this time,
const BEGINNING_MORE: Duration = Duration::from_millis(40);
/// up to so long: then others have waited enough for those who are late, or for a liar.
const BEGINNING_MOST: Duration = Duration::from_millis(200);
/// Time between two of them: requests for object 0 stop nobody.
const BEGINNING_GAP: Duration = Duration::from_millis(1200);

/// Candidates of each kind for which objects are loaded ahead.
const PREFETCH: usize = 3;

/// The server of one image on one group. Keeps nothing per client; see the crate's documentation for the contract.
#[derive(Debug)]
pub struct Server {
    image: Arc<Image>,
    stream: Stream,
    max_segments: u32,
    lane: bool,
    request_address: Option<SocketAddr>,
    framing: usize,
    wanted: Wanted,
    history: History,
    cache: Cache<Loaded>,
    parities: Cache<Parity>,
    /// What proves the parity block being sent.
    path: Vec<Cv>,
    rate: Rate,
    room: Room,
    pacer: Pacer,
    /// Sequence of the next datagram; the wire carries the lower 32 bits.
    sequence: u64,
    announcer: Announcer,
    started: Instant,
    /// Since when and until when nothing but object 0 is sent.
    beginning: Option<(Instant, Instant)>,
    /// Parity blocks queued since the start.
    parity_wanted: u64,
    work: usize,
    work_since: Instant,
    stats: ServerStats,
}

impl Server {
    /// A server that has sent nothing yet; its first ANNOUNCE is due at once.
    ///
    /// # Errors
    /// [`Error::ObjectSize`] and [`Error::ObjectCount`] for an image that the protocol cannot carry.
    pub fn new(
        now: Instant,
        config: ServerConfig,
        image: impl Into<Arc<Image>>,
    ) -> Result<Self, Error> {
        let image = image.into();
        if image.objects.is_empty() || u32::try_from(image.objects.len()).is_err() {
            return Err(Error::ObjectCount(image.objects.len()));
        }
        crate::check_sizes(0, &image.objects)?;
        let mut random = fastrand::Rng::with_seed(config.seed);
        Ok(Self {
            stream: Stream {
                number: random.u16(1..),
                uuid: image.uuid,
            },
            image,
            max_segments: batch(config.max_segments),
            lane: config.lane,
            request_address: config.request_address,
            framing: config.framing,
            wanted: Wanted::default(),
            history: History::default(),
            cache: Cache::new(config.cache_bytes),
            parities: Cache::new(config.cache_bytes / PARITY_PART),
            path: Vec::new(),
            rate: Rate::new(now, &config),
            room: Room::new(now),
            pacer: Pacer::new(now, config.framing),
            sequence: random.u32(..).into(),
            announcer: Announcer::new(config.framing),
            started: now,
            beginning: None,
            parity_wanted: 0,
            work: 0,
            work_since: now,
            stats: ServerStats::default(),
        })
    }

    /// Takes a datagram that arrived at the server's socket. Returns what it said about its client, for displays (anybody
    /// can say anything), or `None` if it was none of ours.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Option<RequestHead> {
        let decoded = wire::decode(datagram)
            .ok()
            .filter(|decoded| decoded.uuid == self.image.uuid);
        let Some(wire::Datagram {
            stream,
            sequence,
            message: Message::Request(head, items),
            ..
        }) = decoded
        else {
            self.stats.rejected += 1;
            return None;
        };
        if now.saturating_duration_since(self.work_since) >= WORK_INTERVAL {
            (self.work, self.work_since) = (0, now);
        }
        if self.work > WORK {
            self.stats.overload += 1;
            return None;
        }
        self.stats.requests += 1;
        self.work += 100;
        let ours = stream == self.stream.number;
        let trip = self.round_trip(now, &head).filter(|_| ours);
        if self.room.report(now, &head, trip) {
            self.announcer.hurry();
        }
        // From another server's run, or from the future: nothing is taken to be in flight. At worst it is sent twice.
        let heard = if ours {
            let heard = self.expand(sequence);
            self.rate.report(now, &head, heard);
            heard
        } else {
            self.sequence
        };
        let was_dry = self.wanted.is_empty();
        let parity_before = self.parity_wanted;
        // Who loses far more than the others is repaired when they have what they want; it will ask again.
        let waits = self.rate.is_behind(head.client) && self.wanted.wants_whole();
        for item in &items {
            let waits = waits && item.object() != 0 && !matches!(item, Item::Whole { .. });
            if self.work <= WORK && !waits {
                self.want(now, item, heard);
            }
        }
        if !self.lane && items.iter().any(|item| item.object() == 0) {
            self.begin(now, was_dry);
        }
        // The others who lost something of the same object hear that it is going to be repaired before they ask.
        if (was_dry && !items.is_empty()) || self.parity_wanted != parity_before {
            // Clients that start now are told soon, in case they missed the last ANNOUNCE. If the queue is still
            // empty all that was asked for is in flight, and this client has missed the end of the queue.
            self.announcer.hurry();
        }
        Some(head)
    }

    /// Takes an object asked for by [`ServerOutput::Load`]. One that is not what the image says counts as failed.
    pub fn handle_loaded(&mut self, now: Instant, object: u32, loaded: Arc<Loaded>) {
        if self.info(object).is_some_and(|info| loaded.is(info)) {
            let bytes = loaded.bytes.len();
            self.cache.insert(object, loaded, bytes);
        } else {
            self.handle_load_failed(now, object);
        }
    }

    /// The object cannot be read: it is not asked for again for a second, and what clients want of it is forgotten.
    pub fn handle_load_failed(&mut self, now: Instant, object: u32) {
        self.stats.load_failures += 1;
        self.cache.fail(now, object);
        self.wanted.remove(object);
    }

    /// Takes what [`ServerOutput::Encode`] asked for. `None`, or parity blocks that are not those of the manifest: clients
    /// get blocks only.
    pub fn handle_parity(&mut self, now: Instant, object: u32, parity: Option<Arc<Parity>>) {
        let Some((info, layout)) = self.info(object).copied().zip(self.layout(object)) else {
            return;
        };
        match parity.filter(|parity| Some(parity.info()) == info.parity) {
            Some(parity) => {
                let bytes = parity.size();
                self.parities.insert(object, parity, bytes);
            }
            None => {
                self.stats.load_failures += 1;
                self.parities.fail(now, object);
                self.wanted.forget_parity(object, &layout);
            }
        }
    }

    /// What to do next. `buffer` is cleared, and filled when the answer is `Transmit`; lend the same one every time.
    pub fn poll(&mut self, now: Instant, buffer: &mut Vec<u8>) -> ServerOutput {
        buffer.clear();
        self.rate.update(now);
        let rate = self.rate.rate();
        let announce_at = self.announce_at(now);
        if announce_at <= now {
            return self.announce(now, buffer);
        }
        if let Some(object) = self.next_load() {
            return ServerOutput::Load(object);
        }
        if let Some(encode) = self.next_encode() {
            return encode;
        }
        let held = self.held_until(now);
        if !self.has_unit(held.is_some()) {
            let until = held.map_or(announce_at, |until| announce_at.min(until));
            return ServerOutput::Wait(Some(until));
        }
        let allowed = self.pacer.allowance(now, rate).min(self.max_segments);
        let least = self.pacer.worthwhile(rate, self.max_segments);
        if allowed < least {
            return ServerOutput::Wait(Some(self.pacer.ready(least, rate).min(announce_at)));
        }
        self.fill(now, buffer, allowed)
    }

    /// From now on at most so many datagrams are in one [`Transmit`]; see [`ServerConfig::max_segments`].
    pub fn limit_batch(&mut self, datagrams: usize) {
        self.max_segments = batch(datagrams);
    }

    /// Number of this run, which stands in every datagram.
    pub fn stream(&self) -> u16 {
        self.stream.number
    }

    /// The rate aimed at, in bits per second on the wire.
    pub fn rate(&self) -> u64 {
        self.rate.rate()
    }

    /// Objects that have something queued, the one being sent included.
    pub fn queued_objects(&self) -> usize {
        self.wanted.len()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &ServerStats {
        &self.stats
    }

    fn info(&self, object: u32) -> Option<&ObjectInfo> {
        self.image.objects.get(usize::try_from(object).ok()?)
    }

    fn layout(&self, object: u32) -> Option<Layout> {
        Layout::of(self.info(object)?)
    }

    /// The 64-bit sequence that a client means: the newest with these lower bits that is not in the future.
    fn expand(&self, sequence: u32) -> u64 {
        let behind = self.sequence.wrapping_sub(sequence.into()) & 0xffff_ffff;
        if behind > 1 << 31 {
            self.sequence
        } else {
            self.sequence.saturating_sub(behind)
        }
    }

    /// Microseconds since the start, as ANNOUNCEs tell them.
    fn clock(&self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.started).as_micros();
        u32::try_from(micros & u128::from(u32::MAX)).unwrap_or(0)
    }

    /// From an ANNOUNCE to the REQUEST that repeats its time, less the time that the client took. What is longer than
    /// `ROUND_TRIP_MAX` is a lie, or a client that slept.
    fn round_trip(&self, now: Instant, head: &RequestHead) -> Option<Duration> {
        let (time, held) = head.echo?;
        let passed = self.clock(now).wrapping_sub(time).checked_sub(held)?;
        let trip = Duration::from_micros(passed.into());
        (trip <= ROUND_TRIP_MAX).then_some(trip)
    }

    fn want(&mut self, now: Instant, item: &Item<'_>, heard: u64) {
        let object = item.object();
        let Some(layout) = self.layout(object) else {
            self.stats.rejected += 1;
            return;
        };
        if self.cache.has_failed(now, object) {
            return;
        }
        let in_flight = self.history.in_flight(object, heard);
        match *item {
            Item::Whole { .. } => {
                self.work += if in_flight.is_empty() {
                    1
                } else {
                    layout.whole() as usize
                };
                self.wanted.want_whole(object, &layout, in_flight);
            }
            Item::Blocks { first, bitmap, .. } => {
                self.work += bitmap.len() * 8;
                for block in wanted_blocks(first, bitmap) {
                    match layout.number(Unit::Block(block)) {
                        Some(unit) => self.wanted.want(object, &layout, unit, in_flight),
                        None => self.stats.rejected += 1,
                    }
                }
            }
            Item::Parity { count, .. } => {
                self.work += usize::from(layout.parity() / 16);
                if !self.parities.has_failed(now, object) {
                    let more = self.wanted.want_parity(object, &layout, count, in_flight);
                    self.parity_wanted += u64::from(more);
                }
            }
            Item::Node { node, .. } => match layout.number(Unit::Node(node)) {
                Some(unit) => self.wanted.want(object, &layout, unit, in_flight),
                None => self.stats.rejected += 1,
            },
        }
    }

    /// Object 0 is asked for: a transfer begins if nothing was wanted before, and goes on to if it began just now.
    fn begin(&mut self, now: Instant, was_dry: bool) {
        self.beginning = match self.beginning {
            Some((since, until)) if now < until => {
                let until = until.max(now + BEGINNING_MORE);
                Some((since, until.min(since + BEGINNING_MOST)))
            }
            Some((_, until)) if !was_dry || now < until + BEGINNING_GAP => self.beginning,
            None if !was_dry => None,
            _ => Some((now, now + BEGINNING)),
        };
    }

    /// Until when nothing but object 0 is sent, if that is so now.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        let (_, until) = self.beginning?;
        (now < until).then_some(until)
    }

    /// Whether nothing is wanted, or nothing that is sent already: whatever a client lacks, it has to ask for.
    fn is_idle(&self, now: Instant) -> bool {
        let is_beginning = self.held_until(now).is_some();
        self.wanted.is_empty() || (is_beginning && !self.wanted.wants_manifest())
    }

    fn announce_at(&self, now: Instant) -> Instant {
        let rate = self.rate.rate();
        let due = self.announcer.due(now, self.is_idle(now), rate);
        due.max(self.pacer.ready(2, rate))
    }

    fn announce(&mut self, now: Instant, buffer: &mut Vec<u8>) -> ServerOutput {
        let objects = u32::try_from(self.image.objects.len()).unwrap_or(u32::MAX);
        let cursor = self.wanted.cursor() % objects;
        let mut promise = [0; wire::PROMISE_OBJECTS as usize / 8];
        for (byte, base) in promise.iter_mut().zip((cursor..).step_by(8)) {
            let bit =
                |bit: u8| u8::from(self.wanted.promises(base.saturating_add(bit.into()))) << bit;
            *byte = (0..8).map(bit).sum();
        }
        let mut repairs = [Repair::default(); MAX_REPAIRS];
        for (repair, (object, parity)) in repairs.iter_mut().zip(self.wanted.parity()) {
            *repair = Repair { object, parity };
        }
        let announce = Announce {
            rate: self.rate.rate(),
            cursor,
            queued: u32::try_from(self.wanted.len()).unwrap_or(u32::MAX),
            idle: self.is_idle(now),
            lane: self.lane,
            promise,
            request_address: self.request_address,
            time: self.clock(now),
            grtt: u32::try_from(self.room.grtt().as_micros()).unwrap_or(u32::MAX),
            receivers: self.room.tell(),
            repairs,
        };
        let sequence = self.next_sequence();
        self.stream
            .announce(buffer, sequence, &announce, &self.image.head);
        self.announcer.sent(now, self.is_idle(now));
        self.stats.announces += 1;
        self.transmit(now, buffer, 1)
    }

    /// The next object that the driver has to read.
    fn next_load(&mut self) -> Option<u32> {
        let candidates: Vec<Candidate> = self.wanted.candidates(PREFETCH).collect();
        let sizes = candidates.iter().filter_map(|candidate| {
            let blocks = self.info(candidate.object)?.blocks;
            Some((
                candidate.object,
                usize::try_from(blocks).ok()?.saturating_mul(BLOCK_SIZE),
            ))
        });
        let sizes: Vec<_> = sizes.collect();
        self.cache.next_load(&sizes)
    }

    /// The next object of which the driver has to compute parity blocks.
    fn next_encode(&mut self) -> Option<ServerOutput> {
        let candidates = self.wanted.candidates(PREFETCH);
        let wanted = candidates
            .filter(|candidate| candidate.parity && self.cache.get(candidate.object).is_some());
        let sizes: Vec<(u32, usize)> = wanted
            .filter_map(|candidate| {
                let parity = self.info(candidate.object)?.parity?;
                Some((candidate.object, usize::from(parity.blocks) * BLOCK_SIZE))
            })
            .collect();
        let object = self.parities.next_load(&sizes)?;
        Some(ServerOutput::Encode {
            object,
            loaded: self.cache.get(object)?,
            blocks: self.info(object)?.parity?.blocks,
        })
    }

    /// Whether there is something to send that is loaded; begins with the next object if need be.
    ///
    /// At the beginning of a transfer of object 0 only.
    fn has_unit(&mut self, is_beginning: bool) -> bool {
        let load = |candidate: Candidate| {
            let loaded = self.cache.get(candidate.object)?;
            let parity = match candidate.parity {
                true => Some(self.parities.get(candidate.object)?),
                false => None,
            };
            Some((candidate, Supply { loaded, parity }))
        };
        let interruption = self.wanted.interruption().and_then(load);
        if interruption.is_none() && self.wanted.is_sending() {
            return true;
        }
        // Whole objects keep their order and wait for the first of them; of repairs any will do.
        let mut whole_seen = false;
        let mut in_turn =
            |candidate: &Candidate| !candidate.whole || !std::mem::replace(&mut whole_seen, true);
        let ready = interruption.or_else(|| {
            let mut candidates = self
                .wanted
                .candidates(PREFETCH)
                .filter(|candidate| in_turn(candidate))
                .filter(|candidate| !is_beginning || candidate.object == 0);
            candidates.find_map(load)
        });
        let Some((candidate, supply)) = ready else {
            return false;
        };
        let Some(layout) = self.layout(candidate.object) else {
            return false;
        };
        self.history.begin(candidate.object, layout.units());
        self.wanted.begin(candidate, layout, supply);
        true
    }

    fn fill(&mut self, now: Instant, buffer: &mut Vec<u8>, most: u32) -> ServerOutput {
        let is_beginning = self.held_until(now).is_some();
        let mut segment = SEGMENT_SIZE;
        let mut datagrams = 0;
        while datagrams < most && self.has_unit(is_beginning) {
            let depth = self.wanted.next_depth().flatten();
            let size = SEGMENT_SIZE + depth.unwrap_or(0) * size_of::<Cv>();
            if !buffer.is_empty() && (size != segment || buffer.len() + size > BATCH_BYTES) {
                break;
            }
            segment = size;
            if self.append_unit(buffer, depth.unwrap_or(0)) {
                datagrams += 1;
            }
        }
        if self.is_idle(now) {
            self.announcer.hurry();
        }
        self.transmit(now, buffer, datagrams)
    }

    /// Appends the next unit of the present job as a datagram. False for one that cannot exist.
    fn append_unit(&mut self, buffer: &mut Vec<u8>, depth: usize) -> bool {
        let Some(next) = self.wanted.next_unit() else {
            return false;
        };
        let (object, loaded) = (next.object, &next.supply.loaded);
        match next.unit {
            Unit::Block(block) => {
                let Some(bytes) = loaded.block(block) else {
                    return false;
                };
                let sequence = self.next_sequence();
                self.stream.data(buffer, sequence, object, block, bytes);
                self.stats.blocks += 1;
                self.stats.repair_blocks += u64::from(next.repair);
            }
            Unit::Node(node) => {
                let Some(children) = loaded.node(node) else {
                    return false;
                };
                let sequence = self.next_sequence();
                self.stream.proof(buffer, sequence, object, node, &children);
                self.stats.proofs += 1;
            }
            Unit::Parity(index) => {
                let parity = next.supply.parity.as_deref();
                let Some(bytes) = parity.and_then(|parity| parity.block(index, &mut self.path))
                else {
                    return false;
                };
                let sequence = self.next_sequence();
                let block = ParityBlock {
                    index,
                    queued: next.parity,
                    bytes,
                    path: &self.path,
                };
                self.stream.parity(buffer, sequence, object, &block, depth);
                self.stats.parity_blocks += 1;
            }
        }
        self.history.note(object, next.number, self.sequence - 1);
        true
    }

    fn next_sequence(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.sequence.to_le_bytes();
        self.sequence += 1;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Accounts for what is in the buffer.
    fn transmit(&mut self, now: Instant, buffer: &[u8], datagrams: u32) -> ServerOutput {
        let datagrams = datagrams as usize;
        let segment = buffer.len() / datagrams.max(1);
        let wire_bytes = u64::try_from(buffer.len() + datagrams * self.framing).unwrap_or(u64::MAX);
        self.pacer.charge(now, self.rate.rate(), wire_bytes);
        self.rate
            .sent(now, self.sequence, datagrams as u64, wire_bytes);
        self.stats.datagrams += datagrams as u64;
        self.stats.wire_bytes += wire_bytes;
        ServerOutput::Transmit(Transmit { segment, datagrams })
    }
}

fn batch(datagrams: usize) -> u32 {
    u32::try_from(datagrams).unwrap_or(u32::MAX).clamp(1, 60)
}

/// The blocks whose bits are set.
fn wanted_blocks(first: u32, bitmap: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let bytes = (0_u32..)
        .step_by(8)
        .zip(bitmap)
        .filter(|(_, byte)| **byte != 0);
    let blocks = bytes.flat_map(|(base, byte)| {
        (0..8)
            .filter(move |bit| byte >> bit & 1 == 1)
            .map(move |bit| base + bit)
    });
    blocks.filter_map(move |offset| first.checked_add(offset))
}
