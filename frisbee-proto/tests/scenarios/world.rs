//! The test network: servers, clients and forgers on one group, with a virtual clock that jumps to the next event.
//!
//! Everything that a test must always hold is asserted here: what a client is given is the image, its buffers stay
//! within the credit, a server keeps to its rate.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::wire;
use frisbee_proto::{
    Client, ClientConfig, ClientOutput, ClientStats, Event, FRAMING, Parity, Server, ServerConfig,
    ServerOutput,
};

use crate::golden::{Golden, Owner};
use crate::link::{Link, Quality};

/// Every scenario's runs: a failure names the one it happened in.
///
/// `FRISBEE_SEEDS` sets their number, for a longer search.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("FRISBEE_SEEDS").map_or(4, |count| count.parse().unwrap())
}

/// How a client of the test is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) start: Duration,
    pub(crate) down: Quality,
    pub(crate) up: Quality,
    pub(crate) credit: u32,
    /// From the delivery of an object to its release, one object at a time.
    pub(crate) consume: Duration,
    /// Other images that it trusts.
    pub(crate) trusted: Vec<Arc<Golden>>,
}

impl Default for Setup {
    fn default() -> Self {
        let consume = Duration::from_millis(2);
        Self {
            start: Duration::ZERO,
            down: Quality::GOOD,
            up: Quality::GOOD,
            credit: 16 << 10,
            consume,
            trusted: Vec::new(),
        }
    }
}

pub(crate) struct Node {
    setup: Setup,
    client: Client<Owner>,
    golden: Arc<Golden>,
    down: Link,
    up: Link,
    running: bool,
    left: bool,
    pub(crate) got: BTreeMap<u32, usize>,
    unreleased: VecDeque<u32>,
    pub(crate) finished: Option<Duration>,
    pub(crate) skipped: Vec<u32>,
    wake: Option<Instant>,
}

impl Node {
    pub(crate) fn stats(&self) -> &ClientStats {
        self.client.stats()
    }

    /// Bytes of the objects received.
    pub(crate) fn received(&self) -> usize {
        self.got.values().sum()
    }
}

pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    golden: Arc<Golden>,
    up: bool,
    ceiling: Option<u64>,
    started: Instant,
    wake: Option<Instant>,
    pub(crate) loads: u64,
}

/// Sees every datagram of the group and answers with its own, which reach every client first.
pub(crate) type Forger = Box<dyn FnMut(&mut fastrand::Rng, &[u8]) -> Vec<(SocketAddr, Vec<u8>)>>;

/// Changes the world at a certain time.
pub(crate) type Action = Box<dyn FnOnce(&mut World)>;

enum Happening {
    ToClient(usize, SocketAddr, Arc<[u8]>),
    ToServer(usize, Arc<[u8]>),
    Loaded(usize, u32),
    Encoded(usize, u32, Option<Arc<Parity>>),
    Release(usize),
    Start(usize),
    Action(Action),
}

struct Timed(Instant, u64, Happening);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

pub(crate) struct World {
    begin: Instant,
    pub(crate) now: Instant,
    seed: u64,
    random: fastrand::Rng,
    queue: BinaryHeap<Timed>,
    count: u64,
    /// Actions that have not happened yet.
    actions: usize,
    pub(crate) hosts: Vec<Host>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) forgers: Vec<Forger>,
    buffer: Vec<u8>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            now,
            seed,
            random: fastrand::Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            count: 0,
            actions: 0,
            hosts: Vec::new(),
            nodes: Vec::new(),
            forgers: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// A server that starts now.
    pub(crate) fn serve(&mut self, golden: &Arc<Golden>, ceiling: Option<u64>) -> usize {
        let place = self.hosts.len();
        let address = SocketAddr::from(([10, 0, 0, 1 + u8::try_from(place).unwrap()], 7001));
        self.serve_at(golden, ceiling, address)
    }

    pub(crate) fn serve_at(
        &mut self,
        golden: &Arc<Golden>,
        ceiling: Option<u64>,
        address: SocketAddr,
    ) -> usize {
        let config = ServerConfig {
            ceiling,
            seed: self.random.u64(..),
            ..ServerConfig::default()
        };
        let server = Server::new(self.now, config, golden.image.clone()).unwrap();
        let golden = Arc::clone(golden);
        let (started, wake) = (self.now, Some(self.now));
        self.hosts.push(Host {
            server,
            address,
            golden,
            up: true,
            ceiling,
            started,
            wake,
            loads: 0,
        });
        self.hosts.len() - 1
    }

    /// A server is gone.
    pub(crate) fn kill(&mut self, host: usize) {
        (self.hosts[host].up, self.hosts[host].wake) = (false, None);
    }

    pub(crate) fn join(&mut self, golden: &Arc<Golden>, setup: &Setup) -> usize {
        let config = ClientConfig {
            credit_blocks: setup.credit,
            seed: self.random.u64(..),
            ..ClientConfig::default()
        };
        let place = self.nodes.len();
        let mut images = setup.trusted.clone();
        images.push(Arc::clone(golden));
        let owner = Owner {
            images,
            admitted: None,
        };
        self.schedule(self.now + setup.start, Happening::Start(place));
        self.nodes.push(Node {
            client: Client::new(self.now + setup.start, config, owner),
            golden: Arc::clone(golden),
            down: Link::new(setup.down, self.random.u64(..)),
            up: Link::new(setup.up, self.random.u64(..)),
            setup: setup.clone(),
            running: false,
            left: false,
            got: BTreeMap::new(),
            unreleased: VecDeque::new(),
            finished: None,
            skipped: Vec::new(),
            wake: None,
        });
        place
    }

    /// A client is gone.
    pub(crate) fn leave(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.running, node.left, node.wake) = (false, true, None);
    }

    pub(crate) fn at(&mut self, time: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.actions += 1;
        self.schedule(self.begin + time, Happening::Action(Box::new(action)));
    }

    /// Time since the beginning.
    pub(crate) fn time(&self) -> Duration {
        self.now - self.begin
    }

    /// Runs until every client that was not taken away has finished, then checks them all.
    pub(crate) fn run(&mut self) {
        let limit = Duration::from_secs(1200);
        let over = |node: &Node| node.finished.is_some() || node.left;
        while !self.nodes.iter().all(over) || self.actions > 0 {
            self.step();
            assert!(
                self.time() < limit,
                "seed {}: no end: {:?}",
                self.seed,
                self.progress()
            );
        }
        for (place, node) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.finished.is_some())
        {
            let objects: Vec<u32> = node.got.keys().chain(&node.skipped).copied().collect();
            let mut sorted = objects.clone();
            sorted.sort_unstable();
            let chunks = (1..).zip(&node.golden.image.objects[1..]);
            let all: Vec<u32> = chunks.map(|(object, _)| object).collect();
            assert_eq!(sorted, all, "seed {}, client {place}", self.seed);
        }
    }

    /// Runs for a time, whatever the clients do.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.at(end - self.begin, |_| ());
        while self.now < end {
            self.step();
        }
    }

    /// DATA and PARITY sent by all servers per block of the image.
    pub(crate) fn overhead(&self) -> f64 {
        let sent: u64 = self
            .hosts
            .iter()
            .map(|host| host.server.stats().blocks + host.server.stats().parity_blocks)
            .sum();
        sent as f64 / self.hosts[0].golden.blocks() as f64
    }

    /// When the last client finished.
    pub(crate) fn finished(&self) -> Duration {
        self.nodes
            .iter()
            .filter_map(|node| node.finished)
            .max()
            .unwrap()
    }

    fn progress(&self) -> Vec<(usize, usize, ClientStats)> {
        let nodes = self.nodes.iter().filter(|node| node.finished.is_none());
        nodes
            .map(|node| (node.got.len(), node.unreleased.len(), *node.client.stats()))
            .collect()
    }

    fn schedule(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        self.queue.push(Timed(at, self.count, happening));
    }

    fn step(&mut self) {
        let hosts = self.hosts.iter().filter_map(|host| host.wake);
        let wake = hosts
            .chain(self.nodes.iter().filter_map(|node| node.wake))
            .min();
        let event = self.queue.peek().map(|timed| timed.0);
        self.now = wake
            .into_iter()
            .chain(event)
            .min()
            .expect("nothing will ever happen")
            .max(self.now);
        while self.queue.peek().is_some_and(|timed| timed.0 <= self.now) {
            let Some(Timed(_, _, happening)) = self.queue.pop() else {
                break;
            };
            self.happen(happening);
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_host(host);
            }
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_node(node);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::ToClient(place, from, datagram) => {
                let node = &mut self.nodes[place];
                if node.running {
                    node.client.handle_datagram(now, from, &datagram);
                    self.check_credit(place);
                    self.nodes[place].wake = Some(now);
                }
            }
            Happening::ToServer(place, datagram) => {
                let host = &mut self.hosts[place];
                if host.up {
                    host.server.handle_datagram(now, &datagram);
                    host.wake = Some(now);
                }
            }
            Happening::Loaded(place, object) => {
                let host = &mut self.hosts[place];
                if host.up {
                    host.server.handle_loaded(
                        now,
                        object,
                        Arc::clone(&host.golden.objects[object as usize]),
                    );
                    host.wake = Some(now);
                }
            }
            Happening::Encoded(place, object, parity) => {
                let host = &mut self.hosts[place];
                if host.up {
                    host.server.handle_parity(now, object, parity);
                    host.wake = Some(now);
                }
            }
            Happening::Release(place) => {
                let node = &mut self.nodes[place];
                if let Some(object) = node.unreleased.pop_front() {
                    node.client.release(now, object);
                }
                if !node.unreleased.is_empty() {
                    let at = now + node.setup.consume;
                    self.schedule(at, Happening::Release(place));
                }
                let node = &mut self.nodes[place];
                node.wake = node.running.then_some(now);
            }
            Happening::Start(place) => {
                (self.nodes[place].running, self.nodes[place].wake) = (true, Some(now));
            }
            Happening::Action(action) => {
                self.actions -= 1;
                action(self);
            }
        }
    }

    fn poll_host(&mut self, place: usize) {
        loop {
            let host = &mut self.hosts[place];
            match host.server.poll(self.now, &mut self.buffer) {
                ServerOutput::Transmit(transmit) => {
                    assert_eq!(self.buffer.len(), transmit.segment * transmit.datagrams);
                    assert!(self.buffer.len() <= 65_000 && transmit.segment <= wire::MAX_DATAGRAM);
                    let (from, buffer) = (host.address, std::mem::take(&mut self.buffer));
                    self.check_rate(place);
                    for datagram in buffer.chunks(transmit.segment) {
                        self.multicast(from, datagram);
                    }
                    self.buffer = buffer;
                }
                ServerOutput::Load(object) => {
                    host.loads += 1;
                    let delay = Duration::from_micros(500 + self.random.u64(..2000));
                    self.schedule(self.now + delay, Happening::Loaded(place, object));
                }
                ServerOutput::Encode {
                    object,
                    loaded,
                    blocks,
                } => {
                    let parity = Parity::of(&loaded, blocks).map(Arc::new);
                    let delay = Duration::from_micros(500 + self.random.u64(..2000));
                    self.schedule(self.now + delay, Happening::Encoded(place, object, parity));
                }
                ServerOutput::Wait(wake) => {
                    assert!(
                        wake.is_none_or(|wake| wake > self.now),
                        "seed {}: a wait that does not wait",
                        self.seed
                    );
                    host.wake = wake;
                    return;
                }
            }
        }
    }

    /// Never more than the rate since the start, but for one burst of 2 ms or 16 datagrams and one batch's rounding.
    fn check_rate(&self, place: usize) {
        let host = &self.hosts[place];
        let Some(ceiling) = host.ceiling else { return };
        let bits = host.server.stats().wire_bytes as f64 * 8.0;
        let burst =
            (ceiling as f64 * 0.002).max(17.0 * (wire::SEGMENT_SIZE + FRAMING) as f64 * 8.0);
        let most = ceiling as f64 * (self.now - host.started).as_secs_f64() * 1.0001 + burst;
        assert!(
            bits <= most,
            "seed {}: {bits} bits, at most {most}",
            self.seed
        );
    }

    pub(crate) fn multicast(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut forgers = std::mem::take(&mut self.forgers);
        for forger in &mut forgers {
            for (from, forged) in forger(&mut self.random, datagram) {
                let forged: Arc<[u8]> = forged.into();
                for node in 0..self.nodes.len() {
                    self.schedule(
                        self.now,
                        Happening::ToClient(node, from, Arc::clone(&forged)),
                    );
                }
            }
        }
        self.forgers = forgers;
        let datagram: Arc<[u8]> = datagram.into();
        for place in 0..self.nodes.len() {
            if self.nodes[place].finished.is_none() {
                for (at, copy) in self.nodes[place].down.carry(self.now, &datagram) {
                    self.schedule(at, Happening::ToClient(place, from, copy));
                }
            }
        }
    }

    /// A REQUEST that comes from nowhere.
    pub(crate) fn request(&mut self, host: usize, datagram: Vec<u8>) {
        self.schedule(self.now, Happening::ToServer(host, datagram.into()));
    }

    fn poll_node(&mut self, place: usize) {
        loop {
            let node = &mut self.nodes[place];
            match node.client.poll(self.now) {
                ClientOutput::Send { to, datagram } => {
                    assert!(datagram.len() <= wire::MAX_DATAGRAM);
                    let copies = node.up.carry(self.now, &datagram.into());
                    // The newest server at this address is the one that is running.
                    let host = self.hosts.iter().rposition(|host| host.address == to);
                    for (at, copy) in copies.into_iter().filter(|_| host.is_some()) {
                        self.schedule(at, Happening::ToServer(host.unwrap(), copy));
                    }
                }
                ClientOutput::Object { object, bytes } => {
                    let genuine = &node.golden.bytes[object as usize];
                    assert!(
                        bytes == *genuine,
                        "seed {}: false object {object} delivered",
                        self.seed
                    );
                    let first = node.got.insert(object, bytes.len()).is_none();
                    assert!(first, "seed {}: object {object} delivered twice", self.seed);
                    node.unreleased.push_back(object);
                    if node.unreleased.len() == 1 {
                        let at = self.now + node.setup.consume;
                        self.schedule(at, Happening::Release(place));
                    }
                }
                ClientOutput::Event(Event::Finished) => node.finished = Some(self.now - self.begin),
                ClientOutput::Event(Event::ManifestRefused) => {
                    panic!("seed {}: manifest refused", self.seed)
                }
                ClientOutput::Event(Event::Manifest { .. }) => {
                    for &object in &node.skipped {
                        node.client.skip(self.now, object);
                    }
                }
                ClientOutput::Event(_) => {}
                ClientOutput::Wait(wake) => {
                    assert!(
                        wake.is_none_or(|wake| wake > self.now),
                        "seed {}: a wait that does not wait",
                        self.seed
                    );
                    node.wake = wake;
                    return;
                }
            }
        }
    }

    fn check_credit(&self, place: usize) {
        let node = &self.nodes[place];
        let largest = node
            .golden
            .image
            .objects
            .iter()
            .map(|info| info.blocks)
            .max()
            .unwrap_or(0);
        let most = node.setup.credit.max(largest);
        let used = node.client.blocks_in_use();
        assert!(
            used <= most,
            "seed {}: {used} blocks in use, credit {most}",
            self.seed
        );
    }
}
