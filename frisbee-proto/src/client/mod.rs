//! The client: chooses an image, takes and verifies every block that passes, and asks for what it lacks.

mod avoided;
mod content;
mod fetch;
mod lane;
mod object;
mod passing;
mod requests;
mod sequence;
mod servers;
mod slow;
mod stock;
mod timing;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunkfmt::BLOCK_SIZE;
use chunkfmt::tree::{Cv, NodeId};

use self::avoided::AvoidedImages;
pub use self::content::{Content, Kept, Weightless};
use self::fetch::Fetch;
pub use self::lane::Unicast;
use self::lane::{Lane, Need};
use self::servers::Servers;
use self::stock::Stock;
use crate::layout::Unit;
use crate::wire::{self, Announce, Datagram, Message, ParityBlock};
use crate::{MAX_OBJECT_BLOCKS, ObjectInfo};

/// Heads judged in one second: signature checks of a flood of forged ANNOUNCEs stay below 5 % of a processor.
const HEADS_PER_SECOND: u32 = 200;

/// What a signed manifest head says, once it has been accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The image's UUID.
    pub uuid: [u8; 16],
    /// Blocks of object 0.
    pub object_blocks: u32,
    /// BLAKE3 root of object 0.
    pub object_root: Cv,
}

/// The caller's judgement of what is trusted: the client machine holds no key.
pub trait Admission {
    /// Judges the 1 KiB manifest head of an ANNOUNCE: its signature, and whether this is the image wanted. Called
    /// while no image is chosen, while the manifest of the chosen one does not come, and for that one once more right
    /// before [`Admission::open_manifest`]; at most some 200 times a second whatever arrives.
    fn admit(&mut self, head: &[u8; 1024]) -> Option<Admitted>;

    /// Takes object 0, which has the root that [`Admission::admit`] returned last, and returns the objects of all chunks in
    /// order (object 1 is the first of them). `None` if it is not understood: the client then gives up with
    /// [`Event::ManifestRefused`]. Called at most once.
    fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Arc<[ObjectInfo]>>;
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// Blocks of 1 KiB that open objects and delivered but not yet released ones may hold together. One object is
    /// always taken, even if it is larger.
    pub credit_blocks: u32,
    /// Largest object 0 accepted, in blocks: it is held beside the credit.
    pub max_manifest_blocks: u32,
    /// Ask for nothing but the manifest until [`Client::go`]. What passes is taken all the same.
    pub hold: bool,
    /// When to ask for datagrams to this client alone.
    pub unicast: Unicast,
    /// Seed of everything random, from the system's random source: the client's number comes from it.
    pub seed: u64,
}

impl Default for ClientConfig {
    /// 128 MiB of credit, manifests up to 256 MiB, from the group only.
    fn default() -> Self {
        Self {
            credit_blocks: 128 << 10,
            max_manifest_blocks: 256 << 10,
            hold: false,
            unicast: Unicast::Never,
            seed: 0,
        }
    }
}

/// What happened, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An image was admitted; its manifest is being fetched. Comes again for another image if nothing proven comes of
    /// this one, but not after [`Event::Manifest`].
    ImageChosen {
        /// The image.
        uuid: [u8; 16],
    },
    /// The manifest is here. Call [`Client::skip`] now for objects that need not be fetched.
    Manifest {
        /// Objects of the image, object 0 included.
        objects: u32,
    },
    /// Requests now go to this address.
    Server(SocketAddr),
    /// [`Admission::open_manifest`] did not understand the manifest. The client does nothing more.
    ManifestRefused,
    /// Every object was delivered or skipped. The client does nothing more.
    Finished,
}

/// What the caller of [`Client::poll`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send this REQUEST.
    Send {
        /// To this server.
        to: SocketAddr,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// A complete and verified object (chunk `object - 1`). Call [`Client::release`] when its memory is free again.
    Object {
        /// Number of the object, from 1.
        object: u32,
        /// All its bytes.
        bytes: Vec<u8>,
    },
    /// Something worth telling the user.
    Event(Event),
    /// Nothing to do until this instant or the next input.
    Wait(Option<Instant>),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Datagrams given to the client.
    pub datagrams: u64,
    /// Not a datagram of the protocol: version, type or length.
    pub malformed: u64,
    /// Of another image, or about objects and blocks that do not exist.
    pub foreign: u64,
    /// ANNOUNCEs with a head that was not admitted, or not looked at because there were too many.
    pub refused_heads: u64,
    /// Blocks kept, those of parity included.
    pub blocks: u64,
    /// Blocks proven, in whole groups, and parity blocks: what a liar cannot make up.
    pub proven: u64,
    /// Blocks computed with the help of parity.
    pub restored: u64,
    /// Blocks and proofs already there.
    pub duplicates: u64,
    /// Blocks that passed while no buffer was free.
    pub no_buffer: u64,
    /// Blocks and proofs that were found false.
    pub forged: u64,
    /// Groups of 16 blocks whose hash was wrong, so that each block had to be checked by itself.
    pub bad_groups: u64,
    /// REQUESTs sent.
    pub requests: u64,
    /// Datagrams missing in the sequence of the servers asked.
    pub lost: u64,
    /// Datagrams that the kernel dropped, as told by [`Client::note_receive_drops`].
    pub receive_drops: u64,
    /// Objects complete or skipped, object 0 included.
    pub objects_done: u64,
    /// Times that requests went over to another server.
    pub server_changes: u64,
}

/// The client of one image. See the crate's documentation for the contract.
///
/// Memory, whatever is sent at it: the credit (or one object, if that is larger), at worst 7 % of it for proofs and as
/// much for parity as the image has (an eighth usually), 1 KiB for each open object, object 0 up to its limit, and 80
/// bytes for each object of the image.
#[derive(Debug)]
pub struct Client<A, C: Content = Kept> {
    admission: A,
    config: ClientConfig,
    random: fastrand::Rng,
    phase: Phase<C>,
    out: VecDeque<ClientOutput>,
    lane: Lane,
    avoided: AvoidedImages,
    /// Start of the second in which heads are counted, and how many there were.
    heads: (Instant, u32),
    stats: ClientStats,
}

/// Something of an object that has come.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Block(u32, &'a [u8; BLOCK_SIZE]),
    Node(NodeId, &'a [u8; BLOCK_SIZE]),
    Parity(ParityBlock<'a>),
}

impl Part<'_> {
    fn unit(&self) -> Unit {
        match *self {
            Self::Block(block, _) => Unit::Block(block),
            Self::Node(node, _) => Unit::Node(node),
            Self::Parity(block) => Unit::Parity(block.index),
        }
    }
}

#[derive(Debug)]
enum Phase<C: Content> {
    /// No ANNOUNCE was admitted yet.
    Choosing,
    /// An image is chosen.
    Fetching(Box<Fetch<C>>),
    /// Finished, or given up.
    Over,
}

impl<A: Admission> Client<A> {
    /// A client that waits for an ANNOUNCE with a head that `admission` admits.
    pub fn new(now: Instant, config: ClientConfig, admission: A) -> Self {
        Self::with_content(now, config, admission)
    }
}

impl<A: Admission, C: Content> Client<A, C> {
    /// As [`Client::new`], for another [`Content`] than [`Kept`].
    pub fn with_content(now: Instant, config: ClientConfig, admission: A) -> Self {
        let mut random = fastrand::Rng::with_seed(config.seed);
        let lane = Lane::new(now, config.unicast, random.u64(..));
        let (out, stats) = (VecDeque::new(), ClientStats::default());
        Self {
            admission,
            config,
            random,
            phase: Phase::Choosing,
            out,
            lane,
            avoided: AvoidedImages::default(),
            heads: (now, 0),
            stats,
        }
    }

    /// Takes a datagram from the group.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.stats.datagrams += 1;
        let Ok(Datagram {
            stream,
            sequence,
            uuid,
            message,
        }) = wire::decode(datagram)
        else {
            self.stats.malformed += 1;
            return;
        };
        if let Message::Announce(announce, _) = message
            && announce.lane
            && !self.lane.is_wanted(from)
        {
            self.stats.foreign += 1;
            return;
        }
        if let Message::Challenge(challenge) = message {
            return self.lane.challenge(now, from, challenge);
        }
        if let Message::Announce(announce, head) = message
            && self.may_choose(now, &uuid)
        {
            return self.choose(now, from, (stream, sequence), uuid, announce, head);
        }
        let Phase::Fetching(fetch) = &mut self.phase else {
            return;
        };
        let (object, part) = match message {
            _ if uuid != fetch.uuid => {
                self.stats.foreign += 1;
                return;
            }
            Message::Request(..) | Message::Challenge(_) => {
                self.stats.foreign += 1;
                return;
            }
            Message::Announce(_, head) if !C::head_is(&fetch.head, head) => {
                self.stats.refused_heads += 1;
                return;
            }
            Message::Announce(announce, _) => {
                if fetch.announce(now, from, stream, sequence, announce) {
                    self.stats.server_changes += 1;
                    self.out
                        .push_back(ClientOutput::Event(Event::Server(fetch.server())));
                }
                return;
            }
            Message::Data(object, block, payload) => (object, Part::Block(block, payload)),
            Message::Proof(object, node, payload) => (object, Part::Node(node, payload)),
            Message::Parity(object, block) => (object, Part::Parity(block)),
        };
        let complete = fetch.take(
            now,
            from,
            (stream, sequence),
            (object, part),
            &mut self.stats,
        );
        if let Some(object) = complete {
            self.complete(now, object);
        }
    }

    /// The memory of a delivered object is free again. Unknown objects are ignored.
    pub fn release(&mut self, now: Instant, object: u32) {
        if let Phase::Fetching(fetch) = &mut self.phase
            && fetch.stock.release(object)
        {
            fetch.stock_changed(now);
        }
    }

    /// This object need not be fetched (it is on the disk already), and is not handed on. Has an effect from
    /// [`Event::Manifest`] on.
    pub fn skip(&mut self, now: Instant, object: u32) {
        if let Phase::Fetching(fetch) = &mut self.phase
            && object != 0
            && fetch.stock.skip(object)
        {
            self.stats.objects_done += 1;
            fetch.forget(object);
            self.finish_if_done(now);
            return;
        }
        // It may have come together with the manifest.
        let skipped = |output: &ClientOutput| match output {
            ClientOutput::Object { object: queued, .. } => *queued == object,
            _ => false,
        };
        if let Some(place) = self.out.iter().position(skipped) {
            self.out.remove(place);
            self.release(now, object);
        }
    }

    /// Ends [`ClientConfig::hold`]: from now on what is lacking is asked for.
    pub fn go(&mut self, now: Instant) {
        self.config.hold = false;
        if let Phase::Fetching(fetch) = &mut self.phase {
            fetch.go(now);
        }
    }

    /// The kernel dropped `count` more datagrams before they could be read. They are part of the loss that the
    /// sequence shows; this only tells the user where it happened.
    pub fn note_receive_drops(&mut self, count: u64) {
        self.stats.receive_drops = self.stats.receive_drops.saturating_add(count);
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> ClientOutput {
        if self.out.is_empty()
            && let Phase::Fetching(fetch) = &mut self.phase
            && fetch.deadline() <= now
        {
            fetch.timeout(now, &mut self.out, &mut self.stats);
        }
        if self.out.is_empty() && self.lane.deadline().is_some_and(|at| at <= now) {
            self.look_for_lane(now);
        }
        let lane = self.lane.deadline();
        match (self.out.pop_front(), &self.phase) {
            (Some(output), _) => output,
            (None, Phase::Fetching(fetch)) => {
                let deadlines = lane.into_iter().chain([fetch.deadline()]);
                ClientOutput::Wait(deadlines.min())
            }
            (None, Phase::Choosing) => ClientOutput::Wait(lane),
            (None, Phase::Over) => ClientOutput::Wait(None),
        }
    }

    /// Whether the server being asked sends to this client alone.
    pub fn has_lane(&self) -> bool {
        matches!(&self.phase, Phase::Fetching(fetch) if fetch.has_lane())
    }

    /// Asks for datagrams to this client alone, if it is time.
    fn look_for_lane(&mut self, now: Instant) {
        let (uuid, need) = match &mut self.phase {
            Phase::Over => return,
            Phase::Choosing => {
                let need = Need {
                    waits: true,
                    proven: None,
                    has_lane: false,
                    server: None,
                };
                ([0; 16], need)
            }
            Phase::Fetching(fetch) => {
                if fetch.leave_lane(now, self.config.unicast) {
                    self.lane.leave();
                    self.stats.server_changes += 1;
                    let server = Event::Server(fetch.server());
                    self.out.push_back(ClientOutput::Event(server));
                }
                (fetch.uuid, fetch.need())
            }
        };
        if let Some(to) = self.lane.look(now, need, &mut self.random) {
            let datagram = self.lane.knock(uuid);
            self.stats.requests += 1;
            self.out.push_back(ClientOutput::Send { to, datagram });
        }
        if let Phase::Fetching(fetch) = &mut self.phase {
            fetch.token = self.lane.token();
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> &ClientStats {
        &self.stats
    }

    /// Blocks of buffer in use: open objects, and delivered ones that were not released. Object 0 is not counted.
    pub fn blocks_in_use(&self) -> u32 {
        match &self.phase {
            Phase::Fetching(fetch) => fetch.stock.in_use(),
            Phase::Choosing | Phase::Over => 0,
        }
    }

    /// What judges the trust.
    pub fn admission(&self) -> &A {
        &self.admission
    }

    /// What judges the trust, to be taken apart when the client is no longer needed.
    pub fn into_admission(self) -> A {
        self.admission
    }

    /// Whether this image may become the chosen one: a head alone, which anybody can repeat, binds nobody.
    fn may_choose(&self, now: Instant, uuid: &[u8; 16]) -> bool {
        match &self.phase {
            Phase::Choosing => true,
            Phase::Fetching(fetch) => {
                fetch.uuid != *uuid && fetch.is_stuck(now) && !self.avoided.contains(now, uuid)
            }
            Phase::Over => false,
        }
    }

    fn choose(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (stream, sequence): (u16, u32),
        uuid: [u8; 16],
        announce: Announce,
        head: &[u8; BLOCK_SIZE],
    ) {
        if now.saturating_duration_since(self.heads.0) >= Duration::from_secs(1) {
            self.heads = (now, 0);
        }
        self.heads.1 += 1;
        let judged = if self.heads.1 <= HEADS_PER_SECOND {
            self.admission.admit(head)
        } else {
            None
        };
        let most = self.config.max_manifest_blocks.min(MAX_OBJECT_BLOCKS);
        let admitted = judged
            .filter(|judged| judged.uuid == uuid && (1..=most).contains(&judged.object_blocks));
        let Some(admitted) = admitted else {
            self.stats.refused_heads += 1;
            return;
        };
        if let Phase::Fetching(fetch) = &self.phase {
            self.avoided.add(now, fetch.uuid);
        }
        let object0 = ObjectInfo {
            blocks: admitted.object_blocks,
            root: admitted.object_root,
            parity: None,
        };
        let stock = Stock::new(self.config.credit_blocks, object0);
        let servers = Servers::new(now, from, stream, sequence, announce);
        let mut fetch = Fetch::new(
            now,
            uuid,
            head,
            stock,
            servers,
            self.config.hold,
            self.random.fork(),
        );
        (fetch.client, fetch.token) = (self.lane.client(), self.lane.token());
        self.out
            .push_back(ClientOutput::Event(Event::ImageChosen { uuid }));
        self.out
            .push_back(ClientOutput::Event(Event::Server(fetch.server())));
        self.phase = Phase::Fetching(Box::new(fetch));
    }

    fn complete(&mut self, now: Instant, object: u32) {
        let Phase::Fetching(fetch) = &mut self.phase else {
            return;
        };
        let Some(bytes) = fetch.stock.deliver(object) else {
            return;
        };
        self.stats.objects_done += 1;
        if object == 0 {
            // Since it was chosen, other heads may have been judged.
            let admitted = self.admission.admit(C::head(&fetch.head));
            let chunks = admitted.and_then(|_| self.admission.open_manifest(bytes));
            let Some(chunks) = chunks.filter(|chunks| crate::check_sizes(1, chunks).is_ok()) else {
                self.out
                    .push_back(ClientOutput::Event(Event::ManifestRefused));
                self.phase = Phase::Over;
                return;
            };
            fetch.stock.extend(chunks);
            self.out.push_back(ClientOutput::Event(Event::Manifest {
                objects: fetch.stock.objects(),
            }));
        } else {
            self.out.push_back(ClientOutput::Object { object, bytes });
        }
        fetch.stock_changed(now);
        self.finish_if_done(now);
    }

    fn finish_if_done(&mut self, now: Instant) {
        if let Phase::Fetching(fetch) = &mut self.phase
            && fetch.stock.is_finished()
        {
            fetch.finish(now, &mut self.out, &mut self.stats);
            self.out.push_back(ClientOutput::Event(Event::Finished));
            self.phase = Phase::Over;
        }
    }
}
