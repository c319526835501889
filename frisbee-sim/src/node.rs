//! A client with its links and its disk.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::{Client, ClientConfig, ClientStats, Event};

use crate::golden::{Golden, Owner};
use crate::invariants::Broken;
use crate::link::{Link, Quality};

/// How a client is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// When it starts.
    pub start: Duration,
    /// The way from the group to it.
    pub down: Quality,
    /// The way from it to the servers.
    pub up: Quality,
    /// Blocks of buffer.
    pub credit: u32,
    /// From the delivery of an object to its release, one object at a time.
    pub consume: Duration,
    /// Other images that it trusts.
    pub trusted: Vec<Arc<Golden>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            start: Duration::ZERO,
            down: Quality::GOOD,
            up: Quality::GOOD,
            credit: 16 << 10,
            consume: Duration::from_millis(2),
            trusted: Vec::new(),
        }
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its time has not come.
    Waiting,
    Running,
    /// It neither receives nor does anything, and will go on later.
    Asleep,
    /// It will not come back.
    Left,
}

/// A client.
#[derive(Debug)]
pub struct Node {
    pub(crate) setup: Setup,
    pub(crate) client: Client<Owner>,
    pub(crate) golden: Arc<Golden>,
    pub(crate) down: Link,
    pub(crate) up: Link,
    pub(crate) state: State,
    /// Objects delivered in this run, with their bytes.
    pub got: BTreeMap<u32, usize>,
    /// Objects that it tells its client, at the manifest, not to fetch.
    pub skipped: Vec<u32>,
    /// When it had everything, since the beginning of the world.
    pub finished: Option<Duration>,
    manifest: bool,
    /// Delivered and not yet on the disk.
    unreleased: VecDeque<u32>,
    /// Releases of an earlier run are none of this one.
    pub(crate) run: u32,
    pub(crate) wake: Option<Instant>,
}

impl Node {
    pub(crate) fn new(
        start: Instant,
        golden: Arc<Golden>,
        setup: Setup,
        random: &mut fastrand::Rng,
    ) -> Self {
        Self {
            client: client(start, &golden, &setup, random),
            golden,
            down: Link::new(setup.down, random.u64(..)),
            up: Link::new(setup.up, random.u64(..)),
            setup,
            state: State::Waiting,
            got: BTreeMap::new(),
            skipped: Vec::new(),
            finished: None,
            manifest: false,
            unreleased: VecDeque::new(),
            run: 0,
            wake: None,
        }
    }

    /// Its client's counters.
    pub fn stats(&self) -> &ClientStats {
        self.client.stats()
    }

    /// Blocks of buffer in use.
    pub fn blocks_in_use(&self) -> u32 {
        self.client.blocks_in_use()
    }

    /// Bytes of the objects received.
    pub fn received(&self) -> usize {
        self.got.values().sum()
    }

    /// Its address.
    pub(crate) fn address(place: usize) -> SocketAddr {
        let [.., a, b] = place.to_be_bytes();
        SocketAddr::from(([10, 1, a, b], 7001))
    }

    /// The machine starts again. What was on its disk is, and is not fetched again if it is to `resume`.
    pub(crate) fn begin_again(&mut self, now: Instant, resume: bool, random: &mut fastrand::Rng) {
        let written: Vec<u32> = self
            .got
            .keys()
            .copied()
            .filter(|object| !self.unreleased.contains(object))
            .collect();
        if resume {
            self.skipped.extend(written);
        } else {
            self.skipped.clear();
        }
        self.client = client(now, &self.golden, &self.setup, random);
        self.got.clear();
        self.unreleased.clear();
        (self.finished, self.manifest) = (None, false);
        self.run += 1;
        (self.state, self.wake) = (State::Running, Some(now));
    }

    /// Takes an object. True if the disk has nothing else to do.
    pub(crate) fn take(&mut self, place: usize, object: u32, bytes: &[u8]) -> Result<bool, Broken> {
        let node = place;
        if !self.manifest || self.finished.is_some() {
            let what = "was given an object before the manifest, or after the end";
            return Err(Broken::Order { node, what });
        }
        let exists = (1..=self.golden.last()).contains(&object);
        if !exists || self.skipped.contains(&object) || self.got.contains_key(&object) {
            return Err(Broken::NotLacking { node, object });
        }
        if self.golden.object(object) != Some(bytes) {
            return Err(Broken::False { node, object });
        }
        self.got.insert(object, bytes.len());
        self.unreleased.push_back(object);
        Ok(self.unreleased.len() == 1)
    }

    /// One object is on the disk. True if there are more.
    pub(crate) fn release(&mut self, now: Instant) -> bool {
        if let Some(object) = self.unreleased.pop_front() {
            self.client.release(now, object);
        }
        self.wake = (self.state == State::Running).then_some(now);
        !self.unreleased.is_empty()
    }

    /// Takes what the client tells its user.
    pub(crate) fn hear(
        &mut self,
        place: usize,
        now: Instant,
        time: Duration,
        event: &Event,
    ) -> Result<(), Broken> {
        let order = |what| Err(Broken::Order { node: place, what });
        match event {
            Event::ManifestRefused => return Err(Broken::Manifest(place)),
            Event::Finished if self.finished.is_some() => return order("has finished twice"),
            Event::Finished => {
                self.finished = Some(time);
                return crate::invariants::complete(place, self);
            }
            Event::Manifest { .. } if self.manifest => return order("has two manifests"),
            Event::Manifest { objects } => {
                if *objects != self.golden.last() + 1 {
                    return order("has the manifest of another image");
                }
                self.manifest = true;
                for &object in &self.skipped {
                    self.client.skip(now, object);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn client(
    now: Instant,
    golden: &Arc<Golden>,
    setup: &Setup,
    random: &mut fastrand::Rng,
) -> Client<Owner> {
    let config = ClientConfig {
        credit_blocks: setup.credit,
        seed: random.u64(..),
        ..ClientConfig::default()
    };
    let mut images = setup.trusted.clone();
    images.push(Arc::clone(golden));
    Client::new(now, config, Owner::new(images))
}
