//! A small world: servers, clients and forgers on one group, and a virtual clock that jumps to the next event.
//!
//! Real bytes travel. After every event everything in [`crate::invariants`] is checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::{ClientOutput, Priority, ServerConfig, ServerOutput, wire};

use crate::bottleneck::Bottleneck;
use crate::clock::Queue;
use crate::forger::Forger;
use crate::golden::Golden;
use crate::host::{Host, Work};
use crate::invariants::{self, Broken, Violation};
use crate::node::{Node, Setup, State};

/// Nothing takes longer than this.
const LIMIT: Duration = Duration::from_secs(1200);

/// Changes the world at a certain time.
type Action = Box<dyn FnOnce(&mut World)>;

enum Happening {
    ToClient(usize, SocketAddr, Arc<[u8]>),
    ToServer(usize, Arc<[u8]>),
    Done(usize, u32, Work),
    /// A node's disk has done with one object, in this run of it.
    Release(usize, u32),
    Start(usize),
    Action(Action),
    /// A segment of a TCP stream has arrived and been acknowledged.
    Acknowledged(usize, u64),
    /// A TCP stream looks whether it was silent for too long.
    Timeout(usize),
}

/// See the module.
pub struct World {
    begin: Instant,
    now: Instant,
    seed: u64,
    random: fastrand::Rng,
    queue: Queue<Happening>,
    /// Actions that have not happened yet.
    actions: usize,
    /// Its servers, those that are gone too.
    pub hosts: Vec<Host>,
    /// Its clients, those that are gone too.
    pub nodes: Vec<Node>,
    /// How long the servers' disks take for an object at the most.
    pub disk: Duration,
    /// Who else is on the group.
    pub forgers: Vec<Forger>,
    /// What everything passes that servers send, if there is such.
    pub bottleneck: Option<Bottleneck>,
    /// Of the servers that start from now on.
    pub priority: Priority,
    /// Digest of all that the servers sent, and when.
    trace: u64,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seed, time) = (self.seed, self.time());
        f.debug_struct("World")
            .field("seed", &seed)
            .field("time", &time)
            .finish_non_exhaustive()
    }
}

impl World {
    /// An empty world in which everything random comes from the seed.
    pub fn new(seed: u64) -> Self {
        // An Instant cannot be had otherwise; only what has passed since it counts.
        let now = Instant::now();
        Self {
            begin: now,
            now,
            seed,
            random: fastrand::Rng::with_seed(seed),
            queue: Queue::new(),
            actions: 0,
            hosts: Vec::new(),
            nodes: Vec::new(),
            disk: Duration::from_millis(2),
            forgers: Vec::new(),
            bottleneck: None,
            priority: Priority::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            buffer: Vec::new(),
        }
    }

    /// A server that starts now; returns its place in [`World::hosts`].
    ///
    /// # Panics
    /// If the protocol cannot carry the image.
    pub fn serve(&mut self, golden: &Arc<Golden>, ceiling: Option<u64>) -> usize {
        let [.., number] = (self.hosts.len() + 1).to_be_bytes();
        self.serve_at(
            golden,
            ceiling,
            SocketAddr::from(([10, 0, 0, number], 7001)),
        )
    }

    /// The same at this address.
    ///
    /// # Panics
    /// As [`World::serve`].
    pub fn serve_at(
        &mut self,
        golden: &Arc<Golden>,
        ceiling: Option<u64>,
        address: SocketAddr,
    ) -> usize {
        let config = ServerConfig {
            ceiling,
            priority: self.priority,
            seed: self.random.u64(..),
            ..ServerConfig::default()
        };
        #[allow(clippy::expect_used, reason = "documented")]
        let host = Host::new(self.now, Arc::clone(golden), config, address)
            .expect("an image that can be served");
        self.hosts.push(host);
        self.hosts.len() - 1
    }

    /// A server is gone.
    pub fn kill(&mut self, host: usize) {
        (self.hosts[host].up, self.hosts[host].wake) = (false, None);
    }

    /// A client that starts when it is set up to, counted from now; returns its place in [`World::nodes`].
    pub fn join(&mut self, golden: &Arc<Golden>, setup: &Setup) -> usize {
        let (place, start) = (self.nodes.len(), self.now + setup.start);
        self.queue.push(start, Happening::Start(place));
        let node = Node::new(start, Arc::clone(golden), setup.clone(), &mut self.random);
        self.nodes.push(node);
        place
    }

    /// A TCP stream starts through the bottleneck, if there is one.
    pub fn stream(&mut self) {
        if let Some(bottleneck) = &mut self.bottleneck {
            let stream = bottleneck.stream(self.now);
            self.queue.push(self.now, Happening::Timeout(stream));
        }
    }

    /// A TCP stream sends what it may.
    fn push(&mut self, stream: usize) {
        if let Some(bottleneck) = &mut self.bottleneck {
            for (at, segment) in bottleneck.push(self.now, stream) {
                self.queue
                    .push(at, Happening::Acknowledged(stream, segment));
            }
        }
    }

    /// A client is gone.
    pub fn leave(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.state, node.wake) = (State::Left, None);
    }

    /// A client that has not finished stands still: it neither receives nor does anything.
    pub fn suspend(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.state == State::Running && node.finished.is_none() {
            (node.state, node.wake) = (State::Asleep, None);
        }
    }

    /// It goes on.
    pub fn wake(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.state == State::Asleep {
            (node.state, node.wake) = (State::Running, Some(self.now));
        }
    }

    /// A client's machine starts again, unless it has finished. If it is to `resume`, what is on its disk is not
    /// fetched again.
    pub fn restart(&mut self, node: usize, resume: bool) {
        let node = &mut self.nodes[node];
        if node.finished.is_none() && node.state != State::Left {
            node.begin_again(self.now, resume, &mut self.random);
        }
    }

    /// Does something at this time since the beginning.
    pub fn at(&mut self, time: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.actions += 1;
        let action = Happening::Action(Box::new(action));
        self.queue.push(self.begin + time, action);
    }

    /// Time since the beginning.
    pub fn time(&self) -> Duration {
        self.now - self.begin
    }

    /// Runs until every client that was not taken away has finished, and everything that was planned has happened.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        let over = |node: &Node| node.finished.is_some() || node.state == State::Left;
        while !self.nodes.iter().all(over) || self.actions > 0 {
            self.step()?;
            if self.time() > LIMIT {
                return Err(self.violated(Broken::NoEnd(self.progress())));
            }
        }
        Ok(())
    }

    /// Runs for a time, whatever the clients do.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let end = self.now + time;
        self.at(end - self.begin, |_| ());
        while self.now < end {
            self.step()?;
        }
        Ok(())
    }

    /// Blocks and parity blocks sent by all servers per block of the image.
    pub fn overhead(&self) -> f64 {
        let blocks = |host: &Host| {
            let stats = host.server.stats();
            stats.blocks + stats.parity_blocks
        };
        let sent: u64 = self.hosts.iter().map(blocks).sum();
        sent as f64 / self.hosts[0].golden.blocks() as f64
    }

    /// When the last client finished.
    ///
    /// # Panics
    /// If none has.
    #[allow(clippy::expect_used, reason = "documented")]
    pub fn finished(&self) -> Duration {
        let finished = self.nodes.iter().filter_map(|node| node.finished);
        finished.max().expect("a client that has finished")
    }

    /// Stands for all that the servers sent, and when: the same for the same seed.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// A datagram from anybody to the group. Forgers see it first, and what they answer is faster.
    pub fn multicast(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut forgers = std::mem::take(&mut self.forgers);
        for forger in &mut forgers {
            for (from, forged) in forger(&mut self.random, datagram) {
                let forged: Arc<[u8]> = forged.into();
                for node in 0..self.nodes.len() {
                    let arrival = Happening::ToClient(node, from, Arc::clone(&forged));
                    self.queue.push(self.now, arrival);
                }
            }
        }
        self.forgers = forgers;
        let through = match &mut self.bottleneck {
            Some(bottleneck) => bottleneck.pass(self.now, datagram.len()),
            None => Some(self.now),
        };
        let Some(through) = through else { return };
        let datagram: Arc<[u8]> = datagram.into();
        for (place, node) in self.nodes.iter_mut().enumerate() {
            if node.finished.is_none() {
                for (at, copy) in node.down.carry(through, &datagram) {
                    self.queue.push(at, Happening::ToClient(place, from, copy));
                }
            }
        }
    }

    /// A REQUEST that comes from nowhere.
    pub fn request(&mut self, host: usize, datagram: Vec<u8>) {
        let arrival = Happening::ToServer(host, datagram.into());
        self.queue.push(self.now, arrival);
    }

    /// Whether all clients that were not taken away have finished.
    fn progress(&self) -> String {
        let nodes = self.nodes.iter().enumerate();
        let unfinished = nodes.filter(|(_, node)| node.finished.is_none());
        let told = unfinished.map(|(place, node)| {
            let of = node.golden.last();
            let (got, skipped) = (node.got.len(), node.skipped.len());
            format!(
                "client {place} has {got} + {skipped} of {of}: {:?}",
                node.stats()
            )
        });
        told.collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn violated(&self, broken: Broken) -> Violation {
        let (seed, time) = (self.seed, self.time());
        Violation { seed, time, broken }
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.try_step().map_err(|broken| self.violated(broken))
    }

    fn try_step(&mut self) -> Result<(), Broken> {
        let hosts = self.hosts.iter().filter_map(|host| host.wake);
        let nodes = self.nodes.iter().filter_map(|node| node.wake);
        let next = hosts.chain(nodes).chain(self.queue.next()).min();
        self.now = next.ok_or(Broken::Dead)?.max(self.now);
        while let Some(happening) = self.queue.pop(self.now) {
            self.happen(happening)?;
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_host(host)?;
            }
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].wake.is_some_and(|wake| wake <= self.now) {
                self.poll_node(node)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        let now = self.now;
        match happening {
            Happening::ToClient(place, from, datagram) => {
                let node = &mut self.nodes[place];
                if node.state == State::Running {
                    node.client.handle_datagram(now, from, &datagram);
                    node.wake = Some(now);
                    invariants::credit(place, node)?;
                }
            }
            Happening::ToServer(place, datagram) => {
                let host = &mut self.hosts[place];
                if host.up {
                    host.server.handle_datagram(now, &datagram);
                    host.wake = Some(now);
                }
            }
            Happening::Done(place, object, work) => self.hosts[place].done(now, object, work),
            Happening::Release(place, run) => {
                let node = &mut self.nodes[place];
                if run == node.run && node.release(now) {
                    let at = now + node.setup.consume;
                    self.queue.push(at, Happening::Release(place, run));
                }
            }
            Happening::Start(place) => {
                let node = &mut self.nodes[place];
                if node.state == State::Waiting {
                    (node.state, node.wake) = (State::Running, Some(now));
                }
            }
            Happening::Action(action) => {
                self.actions -= 1;
                action(self);
            }
            Happening::Acknowledged(stream, segment) => {
                if let Some(bottleneck) = &mut self.bottleneck {
                    bottleneck.acknowledged(now, stream, segment);
                }
                self.push(stream);
            }
            Happening::Timeout(stream) => {
                if let Some(bottleneck) = &mut self.bottleneck {
                    bottleneck.check(now, stream);
                }
                self.push(stream);
                let again = now + Duration::from_millis(50);
                self.queue.push(again, Happening::Timeout(stream));
            }
        }
        Ok(())
    }

    fn poll_host(&mut self, place: usize) -> Result<(), Broken> {
        loop {
            let host = &mut self.hosts[place];
            match host.server.poll(self.now, &mut self.buffer) {
                ServerOutput::Transmit(transmit) => {
                    let (from, buffer) = (host.address, std::mem::take(&mut self.buffer));
                    invariants::batch(from, &buffer, transmit)?;
                    invariants::rate(place, host, self.now)?;
                    for datagram in buffer.chunks(transmit.segment) {
                        self.note(datagram);
                        self.multicast(from, datagram);
                    }
                    self.buffer = buffer;
                }
                ServerOutput::Load(object) => self.work(place, object, Work::Read)?,
                ServerOutput::Encode { object, .. } => self.work(place, object, Work::Encode)?,
                ServerOutput::Wait(wake) => {
                    host.wake = wake;
                    return invariants::waits(self.now, wake, || format!("server {place}"));
                }
            }
        }
    }

    fn work(&mut self, place: usize, object: u32, work: Work) -> Result<(), Broken> {
        let time = self.hosts[place].begin(place, object, work, self.disk, &mut self.random)?;
        let done = Happening::Done(place, object, work);
        self.queue.push(self.now + time, done);
        Ok(())
    }

    /// FNV-1a over the time and the beginning of a datagram.
    fn note(&mut self, datagram: &[u8]) {
        let time = self.time().as_nanos().to_le_bytes();
        let header = &datagram[..wire::HEADER_SIZE.min(datagram.len())];
        for byte in time.iter().chain(header) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn poll_node(&mut self, place: usize) -> Result<(), Broken> {
        loop {
            let time = self.now - self.begin;
            let node = &mut self.nodes[place];
            match node.client.poll(self.now) {
                ClientOutput::Send { to, datagram } => {
                    invariants::request(Node::address(place), &datagram)?;
                    let copies = node.up.carry(self.now, &datagram.into());
                    // The newest server at this address is the one that is running.
                    let host = self.hosts.iter().rposition(|host| host.address == to);
                    for (host, (at, copy)) in host.iter().cycle().zip(copies) {
                        self.queue.push(at, Happening::ToServer(*host, copy));
                    }
                }
                ClientOutput::Object { object, bytes } => {
                    if node.take(place, object, &bytes)? {
                        let at = self.now + node.setup.consume;
                        let released = Happening::Release(place, node.run);
                        self.queue.push(at, released);
                    }
                }
                ClientOutput::Event(event) => node.hear(place, self.now, time, &event)?,
                ClientOutput::Wait(wake) => {
                    node.wake = wake;
                    return invariants::waits(self.now, wake, || format!("client {place}"));
                }
            }
        }
    }
}
