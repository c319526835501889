//! One image as a process serves it: the machine of its group, those of the lanes, and the standby's silence.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lanes::Lanes;
use super::proof::Proof;
use super::shelf::{Shelf, Wish};
use super::standby::Standby;
use super::{Image, Loaded, Parity, Server, ServerConfig, ServerOutput, ServerStats, Transmit};
use crate::Error;
use crate::wire::{self, Challenge, Datagram, Message, RequestHead, Stream};

/// Bytes of loaded objects that a lane keeps: few, since all machines of an image share what is loaded.
const LANE_CACHE: usize = 4 << 20;

/// CHALLENGEs that wait to be sent.
const CHALLENGES: usize = 64;

/// How a [`Service`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct ServiceConfig {
    /// The machine of the group; the lanes have the same ceiling.
    pub server: ServerConfig,
    /// Clients that are served at their own addresses at a time, 0 for none.
    pub lanes: usize,
    /// What tokens are made with, from the system's random source.
    pub secret: [u8; 32],
    /// Be silent while another server of this image is heard.
    pub standby: bool,
}

impl Default for ServiceConfig {
    /// 16 lanes, no standby.
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            lanes: 16,
            secret: [0; 32],
            standby: false,
        }
    }
}

/// What the caller of [`Service::poll`] has to do.
#[derive(Clone, Debug)]
pub enum ServiceOutput {
    /// Send what is in the buffer.
    Transmit {
        /// To this client alone; to the group if there is none.
        to: Option<SocketAddr>,
        /// What is in the buffer.
        transmit: Transmit,
    },
    /// Read this object and call [`Service::handle_loaded`] or [`Service::handle_load_failed`].
    Load(u32),
    /// Compute its parity ([`Parity::of`]) and call [`Service::handle_parity`].
    Encode {
        /// The object.
        object: u32,
        /// Its bytes.
        loaded: Arc<Loaded>,
        /// How many parity blocks it has.
        blocks: u16,
    },
    /// No other server was heard for so long: this standby serves from now on.
    TookOver(Duration),
    /// Another server is heard again: this standby is silent from now on.
    SteppedBack,
    /// Nothing to do until this instant or the next input.
    Wait(Option<Instant>),
}

/// What only a [`Service`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Lanes that are open.
    pub open: usize,
    /// Lanes opened since the start.
    pub opened: u64,
    /// REQUESTs with a proof of address for which there was no lane left.
    pub refused: u64,
    /// CHALLENGEs sent.
    pub challenges: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Machine {
    Group,
    Lane(SocketAddr),
}

/// The server of one image: a [`Server`] for the group and one for each client that has a lane.
///
/// Memory: that of the machines, of which there are at most [`ServiceConfig::lanes`] and one; they share loaded objects.
#[derive(Debug)]
pub struct Service {
    image: Arc<Image>,
    config: ServiceConfig,
    random: fastrand::Rng,
    group: Server,
    /// What machines of the group have done that were silenced.
    before: ServerStats,
    lanes: Lanes,
    proof: Proof,
    challenges: VecDeque<(SocketAddr, Challenge)>,
    /// A lane is the next that may send. Lanes have every other turn, however many there are.
    lanes_first: bool,
    standby: Option<Standby>,
    was_quiet: bool,
    objects: Shelf<Loaded, Machine>,
    parities: Shelf<Parity, Machine>,
    lane_stats: LaneStats,
    stats: ServerStats,
}

impl Service {
    /// A service that has sent nothing yet.
    ///
    /// # Errors
    /// Those of [`Server::new`].
    pub fn new(
        now: Instant,
        config: ServiceConfig,
        image: impl Into<Arc<Image>>,
    ) -> Result<Self, Error> {
        let image = image.into();
        let mut random = fastrand::Rng::with_seed(config.server.seed);
        let standby = config.standby.then(|| Standby::new(now, random.fork()));
        Ok(Self {
            group: Server::new(now, config.server, Arc::clone(&image))?,
            image,
            random,
            before: ServerStats::default(),
            lanes: Lanes::new(config.lanes),
            proof: Proof::new(now, config.secret),
            challenges: VecDeque::new(),
            lanes_first: false,
            was_quiet: standby.is_some(),
            standby,
            objects: Shelf::default(),
            parities: Shelf::default(),
            lane_stats: LaneStats::default(),
            stats: ServerStats::default(),
            config,
        })
    }

    /// Takes a datagram that arrived at the socket. Returns what it said about its client, for displays, or `None` if
    /// it was none of ours or nothing that an unproven address may say.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<RequestHead> {
        if wire::asks_for_lane(datagram) {
            self.handle_lane(now, from, datagram)
        } else if self.is_quiet() {
            None
        } else {
            let head = self.group.handle_datagram(now, datagram)?;
            if head.token != 0 && self.proof.accepts(now, from, head.token) {
                // It has gone back to the group.
                self.lanes.close(from);
            }
            Some(head)
        }
    }

    /// Takes a datagram of the group, which only a standby has to hear.
    pub fn handle_group(&mut self, now: Instant, datagram: &[u8]) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        if let Ok(Datagram {
            stream,
            uuid,
            message: Message::Announce(announce, head),
            ..
        }) = wire::decode(datagram)
            && uuid == self.image.uuid
            && *head == *self.image.head
            && stream != self.group.stream()
            && !announce.lane
        {
            standby.hear(now);
        }
    }

    fn handle_lane(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<RequestHead> {
        let decoded = wire::decode(datagram).ok();
        let ours = |uuid: [u8; 16]| uuid == self.image.uuid || uuid == [0; 16];
        let Some(Datagram {
            uuid,
            message: Message::Request(head, _),
            ..
        }) = decoded.filter(|decoded| self.config.lanes > 0 && ours(decoded.uuid))
        else {
            self.stats.rejected += 1;
            return None;
        };
        if !self.proof.accepts(now, from, head.token) {
            let rate = self.group.rate();
            if self.challenges.len() < CHALLENGES && self.proof.may_challenge(now, rate) {
                let challenge = Challenge {
                    client: head.client,
                    token: self.proof.token(now, from),
                };
                self.challenges.push_back((from, challenge));
            }
            return None;
        }
        if head.done {
            self.lanes.close(from);
            return Some(head);
        }
        if self.lanes.get(from).is_none() {
            if !self.lanes.has_room(from) {
                self.lane_stats.refused += 1;
                return Some(head);
            }
            let config = ServerConfig {
                lane: true,
                request_address: None,
                cache_bytes: LANE_CACHE.min(self.config.server.cache_bytes),
                seed: self.random.u64(..),
                ..self.config.server
            };
            let server = Server::new(now, config, Arc::clone(&self.image)).ok()?;
            self.lanes.open(now, from, server);
            self.lane_stats.opened += 1;
        }
        let server = self.lanes.heard(now, from)?;
        if uuid == self.image.uuid {
            server.handle_datagram(now, datagram);
        }
        Some(head)
    }

    /// Takes an object asked for by [`ServiceOutput::Load`]. False if it is not what the image says.
    pub fn handle_loaded(&mut self, now: Instant, object: u32, loaded: &Arc<Loaded>) -> bool {
        let place = usize::try_from(object).ok();
        let info = place.and_then(|place| self.image.objects.get(place));
        if !info.is_some_and(|info| loaded.is(info)) {
            self.handle_load_failed(now, object);
            return false;
        }
        for machine in self.objects.put(object, loaded) {
            if let Some(server) = self.machine(machine) {
                server.handle_loaded(now, object, Arc::clone(loaded));
            }
        }
        true
    }

    /// An object cannot be read.
    pub fn handle_load_failed(&mut self, now: Instant, object: u32) {
        self.stats.load_failures += 1;
        for machine in self.objects.give_up(object) {
            if let Some(server) = self.machine(machine) {
                server.handle_load_failed(now, object);
            }
        }
    }

    /// Takes parity asked for by [`ServiceOutput::Encode`]. As [`Server::handle_parity`].
    pub fn handle_parity(&mut self, now: Instant, object: u32, parity: Option<&Arc<Parity>>) {
        let place = usize::try_from(object).ok();
        let info = place.and_then(|place| self.image.objects.get(place));
        let expected = info.and_then(|info| info.parity);
        let parity = parity.filter(|parity| Some(parity.info()) == expected);
        let waiting = match parity {
            Some(parity) => self.parities.put(object, parity),
            None => {
                self.stats.load_failures += 1;
                self.parities.give_up(object)
            }
        };
        for machine in waiting {
            if let Some(server) = self.machine(machine) {
                server.handle_parity(now, object, parity.map(Arc::clone));
            }
        }
    }

    /// What to do next; at most `batch` datagrams. As [`Server::poll`].
    pub fn poll(&mut self, now: Instant, batch: usize, buffer: &mut Vec<u8>) -> ServiceOutput {
        let mut wait = self.lanes.close_silent(now);
        if let Some(event) = self.change_role(now) {
            return event;
        }
        let takes_over = self.standby.as_ref().and_then(Standby::take_over_at);
        wait = earlier(wait, takes_over);
        if let Some((to, challenge)) = self.challenges.pop_front() {
            return self.challenge(to, challenge, buffer);
        }
        let lanes = self.lanes.in_turn();
        let lanes = lanes.into_iter().map(Machine::Lane);
        let group = (!self.is_quiet()).then_some(Machine::Group);
        let order: Vec<Machine> = match self.lanes_first {
            true => lanes.chain(group).collect(),
            false => group.into_iter().chain(lanes).collect(),
        };
        for machine in order {
            match self.poll_machine(now, machine, batch, buffer) {
                ServiceOutput::Wait(until) => wait = earlier(wait, until),
                output => return output,
            }
        }
        ServiceOutput::Wait(wait)
    }

    /// The rate that the group's machine aims at, in bits per second on the wire.
    pub fn rate(&self) -> u64 {
        self.group.rate()
    }

    /// Whether this is a standby that hears another server, or waits for one.
    pub fn is_quiet(&self) -> bool {
        self.standby.as_ref().is_some_and(Standby::is_quiet)
    }

    /// Objects that have something queued, those of lanes included.
    pub fn queued_objects(&self) -> usize {
        self.group.queued_objects() + self.lanes.queued_objects()
    }

    /// Counters since the start, of all machines.
    pub fn stats(&self) -> ServerStats {
        let mut all = self.stats;
        all.add(&self.before);
        all.add(self.group.stats());
        all.add(&self.lanes.stats());
        // Each object is read once, and its parity computed once, whoever waits for it.
        all.load_failures = self.stats.load_failures;
        all
    }

    /// Counters of lanes.
    pub fn lane_stats(&self) -> LaneStats {
        LaneStats {
            open: self.lanes.len(),
            ..self.lane_stats
        }
    }

    /// Bytes that a datagram costs beside its payload.
    pub(super) fn framing(&self) -> usize {
        self.config.server.framing
    }

    fn machine(&mut self, machine: Machine) -> Option<&mut Server> {
        match machine {
            Machine::Group => Some(&mut self.group),
            Machine::Lane(address) => self.lanes.get(address),
        }
    }

    /// Takes over or steps back, if it is time.
    fn change_role(&mut self, now: Instant) -> Option<ServiceOutput> {
        let standby = self.standby.as_mut()?;
        if let Some(silence) = standby.take_over(now) {
            self.was_quiet = false;
            return Some(ServiceOutput::TookOver(silence));
        }
        if !standby.is_quiet() || self.was_quiet {
            return None;
        }
        self.was_quiet = true;
        // The next time it serves it is another run, of which clients expect nothing.
        let config = ServerConfig {
            seed: self.random.u64(..),
            ..self.config.server
        };
        if let Ok(server) = Server::new(now, config, Arc::clone(&self.image)) {
            self.before.add(self.group.stats());
            self.group = server;
        }
        Some(ServiceOutput::SteppedBack)
    }

    fn challenge(
        &mut self,
        to: SocketAddr,
        challenge: Challenge,
        buffer: &mut Vec<u8>,
    ) -> ServiceOutput {
        let stream = Stream {
            number: self.group.stream(),
            uuid: self.image.uuid,
        };
        buffer.clear();
        buffer.extend_from_slice(&stream.challenge(challenge));
        let transmit = Transmit {
            segment: buffer.len(),
            datagrams: 1,
        };
        self.lane_stats.challenges += 1;
        self.stats.datagrams += 1;
        self.stats.wire_bytes += (buffer.len() + self.framing()) as u64;
        ServiceOutput::Transmit {
            to: Some(to),
            transmit,
        }
    }

    fn poll_machine(
        &mut self,
        now: Instant,
        machine: Machine,
        batch: usize,
        buffer: &mut Vec<u8>,
    ) -> ServiceOutput {
        loop {
            let Some(server) = self.machine(machine) else {
                return ServiceOutput::Wait(None);
            };
            server.limit_batch(batch);
            match server.poll(now, buffer) {
                ServerOutput::Transmit(transmit) => {
                    let to = match machine {
                        Machine::Group => None,
                        Machine::Lane(address) => {
                            self.lanes.sent(address);
                            Some(address)
                        }
                    };
                    self.lanes_first = to.is_none();
                    return ServiceOutput::Transmit { to, transmit };
                }
                ServerOutput::Load(object) => match self.objects.want(object, machine) {
                    Wish::Fulfilled(loaded) => {
                        if let Some(server) = self.machine(machine) {
                            server.handle_loaded(now, object, loaded);
                        }
                    }
                    Wish::First => return ServiceOutput::Load(object),
                    Wish::Waiting => {}
                },
                ServerOutput::Encode {
                    object,
                    loaded,
                    blocks,
                } => match self.parities.want(object, machine) {
                    Wish::Fulfilled(parity) => {
                        if let Some(server) = self.machine(machine) {
                            server.handle_parity(now, object, Some(parity));
                        }
                    }
                    Wish::First => {
                        return ServiceOutput::Encode {
                            object,
                            loaded,
                            blocks,
                        };
                    }
                    Wish::Waiting => {}
                },
                ServerOutput::Wait(until) => return ServiceOutput::Wait(until),
            }
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
