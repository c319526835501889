//! The server: merges requests, serves them in one rotating order at the paced rate, and announces the image.

mod cache;
mod history;
mod pacing;
mod rate;
mod wanted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunkfmt::BLOCK_SIZE;
use chunkfmt::tree::Tree;

use self::cache::Cache;
use self::history::History;
use self::pacing::Pacer;
use self::rate::Rate;
use self::wanted::{Candidate, Wanted};
use crate::layout::{Layout, Unit};
use crate::wire::{self, Announce, Item, Message, RequestHead, SEGMENT_SIZE, Stream};
use crate::{Error, FRAMING, ObjectInfo};

/// When the queue has run dry or has just been filled, ANNOUNCEs come after so long, then after twice as long each
/// time: what they tell is urgent, and one may be lost.
const ANNOUNCE_FIRST: Duration = Duration::from_millis(10);
/// At most so long while there is something to send: promises and loss are known that soon.
const ANNOUNCE_ACTIVE: Duration = Duration::from_millis(100);
/// At most so long otherwise: how long a new client waits for its first one.
const ANNOUNCE_IDLE: Duration = Duration::from_secs(1);
/// ANNOUNCEs take at most one part in this many of the rate.
const ANNOUNCE_SHARE: u64 = 20;

/// Units that all REQUESTs of one `WORK_INTERVAL` may ask about. More are dropped, as a network would do with them:
/// a flood of REQUESTs costs some 5 % of a processor and does not stop the sending.
const WORK: usize = 100_000;
const WORK_INTERVAL: Duration = Duration::from_millis(10);

/// Candidates of each kind for which objects are loaded ahead.
const PREFETCH: usize = 3;

/// What a server serves.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image's UUID; stands in every datagram.
    pub uuid: [u8; 16],
    /// The signed 1 KiB block that begins the manifest, as it stands in the file.
    pub head: Box<[u8; 1024]>,
    /// Object 0 (image header and manifest body), then every chunk.
    pub objects: Vec<ObjectInfo>,
}

/// How a server behaves. `ServerConfig::default()` is what a daemon without options uses, but for the seed.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Rate never exceeded, in bits per second on the wire ([`crate::FRAMING`] included). `None`: what clients keep up
    /// with, from 200 Mbit/s upwards.
    pub ceiling: Option<u64>,
    /// Most datagrams in one [`Transmit`], 1 to 60 (at most 65,000 bytes, what UDP segmentation offload takes).
    pub max_segments: usize,
    /// Bytes of loaded objects that the server keeps (object 0 beside them); at least the largest object is kept.
    pub cache_bytes: usize,
    /// Where clients send requests, if not to the source address of the server's datagrams.
    pub request_address: Option<SocketAddr>,
    /// Seed of everything random, from the system's random source: the number of this run's stream comes from it, and
    /// a restarted server must have another one.
    pub seed: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            ceiling: None,
            max_segments: 60,
            cache_bytes: 32 << 20,
            request_address: None,
            seed: 0,
        }
    }
}

/// One object in memory, with the tree that its proofs are taken from.
#[derive(Debug)]
pub struct Loaded {
    bytes: Vec<u8>,
    tree: Tree,
}

impl Loaded {
    /// Hashes an object's bytes (on the caller's thread). `None` unless they are a whole, non-zero number of blocks.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let tree = Tree::build(&bytes)?;
        Some(Self { bytes, tree })
    }
}

/// What a REQUEST said about its client: for progress displays, of no consequence to the server, and not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Random number of the client's run.
    pub client: u64,
    /// The client has everything and will ask no more.
    pub done: bool,
    /// Datagrams of this server received since the client's last REQUEST.
    pub received: u32,
    /// Datagrams missing among them.
    pub lost: u32,
    /// Blocks that the client has free buffers for.
    pub free_blocks: u32,
    /// Objects that the client has, object 0 included.
    pub objects_done: u32,
}

/// What the caller of [`Server::poll`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOutput {
    /// Send what is in the buffer to the group.
    Transmit(Transmit),
    /// Read this object and call [`Server::handle_loaded`] or [`Server::handle_load_failed`]; no hurry, others may
    /// be asked for meanwhile.
    Load(u32),
    /// Nothing to do until this instant or the next input.
    Wait(Option<Instant>),
}

/// A batch of datagrams of equal size in the caller's buffer, fit for `UDP_SEGMENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Bytes of each datagram; the buffer holds a whole number of them.
    pub segment: usize,
    /// Datagrams in the buffer.
    pub datagrams: usize,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Datagrams sent, of every kind.
    pub datagrams: u64,
    /// Bytes sent, [`crate::FRAMING`] included.
    pub wire_bytes: u64,
    /// DATA datagrams sent.
    pub blocks: u64,
    /// Those of them sent to repair an object rather than as part of a whole one.
    pub repair_blocks: u64,
    /// PROOF datagrams sent.
    pub proofs: u64,
    /// ANNOUNCE datagrams sent.
    pub announces: u64,
    /// REQUESTs understood.
    pub requests: u64,
    /// Datagrams dropped: not a REQUEST for this image, wrong lengths, or objects and blocks that do not exist.
    pub rejected: u64,
    /// REQUESTs dropped because there were too many at once.
    pub overload: u64,
    /// Objects that could not be loaded, or were not what the manifest says.
    pub load_failures: u64,
}

/// The server of one image on one group. Keeps nothing per client; see the crate's documentation for the contract.
#[derive(Debug)]
pub struct Server {
    image: Image,
    stream: Stream,
    max_segments: u32,
    request_address: Option<SocketAddr>,
    wanted: Wanted,
    history: History,
    cache: Cache,
    /// The object of the present job.
    sending: Option<Arc<Loaded>>,
    rate: Rate,
    pacer: Pacer,
    /// Sequence of the next datagram; the wire carries the lower 32 bits.
    sequence: u64,
    announced: Option<Instant>,
    /// From one ANNOUNCE to the next.
    interval: Duration,
    work: usize,
    work_since: Instant,
    stats: ServerStats,
}

impl Server {
    /// A server that has sent nothing yet; its first ANNOUNCE is due at once.
    ///
    /// # Errors
    /// [`Error::ObjectSize`] and [`Error::ObjectCount`] for an image that the protocol cannot carry.
    pub fn new(now: Instant, config: ServerConfig, image: Image) -> Result<Self, Error> {
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
            max_segments: u32::try_from(config.max_segments)
                .unwrap_or(u32::MAX)
                .clamp(1, 60),
            request_address: config.request_address,
            wanted: Wanted::default(),
            history: History::default(),
            cache: Cache::new(config.cache_bytes),
            sending: None,
            rate: Rate::new(now, config.ceiling),
            pacer: Pacer::new(now),
            sequence: random.u32(..).into(),
            announced: None,
            interval: ANNOUNCE_FIRST,
            work: 0,
            work_since: now,
            stats: ServerStats::default(),
        })
    }

    /// Takes a datagram that arrived at the server's socket. Returns what it said about its client, or `None` if it
    /// was none of ours.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Option<Report> {
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
        if ours {
            self.rate.report(head.received, head.lost);
        }
        // From another server's run, or from the future: nothing is taken to be in flight. At worst it is sent twice.
        let heard = if ours {
            self.expand(sequence)
        } else {
            self.sequence
        };
        let was_dry = self.wanted.is_empty();
        for item in &items {
            self.want(now, item, heard);
        }
        if !items.is_empty() {
            // The queue was empty: clients that start now are told soon, in case they missed the last ANNOUNCE. It
            // still is: all that was asked for is in flight, and this client has missed the end of the queue.
            if was_dry {
                self.interval = ANNOUNCE_FIRST;
            }
        }
        Some(Report::new(&head))
    }

    /// Takes an object asked for by [`ServerOutput::Load`]. One that is not what the image says counts as failed.
    pub fn handle_loaded(&mut self, now: Instant, object: u32, loaded: Arc<Loaded>) {
        let genuine = self.info(object).is_some_and(|info| {
            loaded.tree.root() == info.root && loaded.tree.shape().blocks() == info.blocks
        });
        if genuine {
            self.cache.insert(object, loaded);
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
        if !self.has_unit() {
            return ServerOutput::Wait(Some(announce_at));
        }
        let allowed = self.pacer.allowance(now, rate).min(self.max_segments);
        let least = Pacer::worthwhile(rate, self.max_segments);
        if allowed < least {
            return ServerOutput::Wait(Some(self.pacer.ready(least, rate).min(announce_at)));
        }
        self.fill(now, buffer, allowed)
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
        Layout::new(self.info(object)?.blocks)
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
            Item::Node { node, .. } => match layout.number(Unit::Node(node)) {
                Some(unit) => self.wanted.want(object, &layout, unit, in_flight),
                None => self.stats.rejected += 1,
            },
        }
    }

    fn announce_at(&self, now: Instant) -> Instant {
        let Some(last) = self.announced else {
            return now;
        };
        let interval = self.interval.min(self.longest_interval());
        let rate = self.rate.rate();
        let least = pacing::wire_time(
            (wire::ANNOUNCE_SIZE + FRAMING) as u64 * ANNOUNCE_SHARE,
            rate,
        );
        (last + interval.max(least)).max(self.pacer.ready(2, rate))
    }

    fn longest_interval(&self) -> Duration {
        if self.wanted.is_empty() {
            ANNOUNCE_IDLE
        } else {
            ANNOUNCE_ACTIVE
        }
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
        let announce = Announce {
            rate: self.rate.rate(),
            cursor,
            queued: u32::try_from(self.wanted.len()).unwrap_or(u32::MAX),
            idle: self.wanted.is_empty(),
            promise,
            request_address: self.request_address,
        };
        let sequence = self.next_sequence();
        self.stream
            .announce(buffer, sequence, &announce, &self.image.head);
        self.announced = Some(now);
        self.interval = (self.interval * 2).min(self.longest_interval());
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

    /// Whether there is something to send that is loaded; begins with the next object if need be.
    fn has_unit(&mut self) -> bool {
        if self.wanted.job().is_some() {
            return true;
        }
        // Whole objects keep their order and wait for the first of them; of repairs any will do.
        let mut whole_seen = false;
        let ready = self.wanted.candidates(PREFETCH).find_map(|candidate| {
            let out_of_turn = candidate.whole && std::mem::replace(&mut whole_seen, true);
            let loaded = self.cache.get(candidate.object).filter(|_| !out_of_turn)?;
            Some((candidate, loaded))
        });
        let Some((candidate, loaded)) = ready else {
            return false;
        };
        let Some(layout) = self.layout(candidate.object) else {
            return false;
        };
        self.sending = Some(loaded);
        self.history
            .begin(candidate.object, layout.units(), self.sequence);
        self.wanted.begin(candidate, &layout);
        true
    }

    fn fill(&mut self, now: Instant, buffer: &mut Vec<u8>, most: u32) -> ServerOutput {
        let mut datagrams = 0;
        while datagrams < most && self.has_unit() {
            if self.append_unit(buffer) {
                datagrams += 1;
            }
        }
        if self.wanted.is_empty() {
            self.interval = ANNOUNCE_FIRST;
        }
        self.transmit(now, buffer, datagrams)
    }

    /// Appends the next unit of the present job as a datagram. False for one that cannot exist.
    fn append_unit(&mut self, buffer: &mut Vec<u8>) -> bool {
        let (Some(job), Some(loaded)) = (self.wanted.job(), self.sending.clone()) else {
            return false;
        };
        let (object, repair) = (job.object, job.repair);
        let Some(number) = self.wanted.next_unit() else {
            return false;
        };
        match self.layout(object).and_then(|layout| layout.unit(number)) {
            Some(Unit::Block(block)) => {
                let Some(bytes) = loaded.block(block) else {
                    return false;
                };
                let sequence = self.next_sequence();
                self.stream.data(buffer, sequence, object, block, bytes);
                self.stats.blocks += 1;
                self.stats.repair_blocks += u64::from(repair);
            }
            Some(Unit::Node(node)) => {
                let Some(children) = loaded.tree.node(&loaded.bytes, node) else {
                    return false;
                };
                let sequence = self.next_sequence();
                self.stream.proof(buffer, sequence, object, node, &children);
                self.stats.proofs += 1;
            }
            None => return false,
        }
        self.history.note(object, number, self.sequence - 1);
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
        let segment = if datagrams == 1 {
            buffer.len()
        } else {
            SEGMENT_SIZE
        };
        let wire_bytes = u64::try_from(buffer.len() + datagrams * FRAMING).unwrap_or(u64::MAX);
        self.pacer.charge(now, self.rate.rate(), wire_bytes);
        self.rate.sent(wire_bytes);
        self.stats.datagrams += datagrams as u64;
        self.stats.wire_bytes += wire_bytes;
        ServerOutput::Transmit(Transmit { segment, datagrams })
    }
}

impl Loaded {
    fn block(&self, block: u32) -> Option<&[u8; BLOCK_SIZE]> {
        let start = usize::try_from(block).ok()?.checked_mul(BLOCK_SIZE)?;
        self.bytes.get(start..)?.first_chunk()
    }
}

impl Report {
    fn new(head: &RequestHead) -> Self {
        let RequestHead {
            client,
            done,
            received,
            lost,
            free_blocks,
            objects_done,
        } = *head;
        Self {
            client,
            done,
            received,
            lost,
            free_blocks,
            objects_done,
        }
    }
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
