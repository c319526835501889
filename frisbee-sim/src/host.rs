//! A server with the disk that it reads from.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::{Error, Server, ServerConfig};

use crate::golden::Golden;
use crate::invariants::Broken;

/// A server.
#[derive(Debug)]
pub struct Host {
    /// The machine.
    pub server: Server,
    /// Where it sends from and takes requests.
    pub address: SocketAddr,
    /// Objects that it has read.
    pub loads: u64,
    pub(crate) golden: Arc<Golden>,
    pub(crate) up: bool,
    pub(crate) ceiling: Option<u64>,
    pub(crate) started: Instant,
    pub(crate) wake: Option<Instant>,
    loading: BTreeSet<u32>,
}

impl Host {
    /// # Errors
    /// For an image that the protocol cannot carry.
    pub(crate) fn new(
        now: Instant,
        golden: Arc<Golden>,
        config: ServerConfig,
        address: SocketAddr,
    ) -> Result<Self, Error> {
        Ok(Self {
            server: Server::new(now, config, golden.image.clone())?,
            address,
            loads: 0,
            golden,
            up: true,
            ceiling: config.ceiling,
            started: now,
            wake: Some(now),
            loading: BTreeSet::new(),
        })
    }

    /// Begins to read an object; returns for how long.
    pub(crate) fn load(
        &mut self,
        place: usize,
        object: u32,
        random: &mut fastrand::Rng,
    ) -> Result<Duration, Broken> {
        if object > self.golden.last() || !self.loading.insert(object) {
            let host = place;
            return Err(Broken::Load { host, object });
        }
        self.loads += 1;
        Ok(Duration::from_micros(500 + random.u64(..2000)))
    }

    /// It has been read.
    pub(crate) fn loaded(&mut self, now: Instant, object: u32) {
        self.loading.remove(&object);
        if let (true, Some(loaded)) = (self.up, self.golden.objects.get(object as usize)) {
            self.server.handle_loaded(now, object, Arc::clone(loaded));
            self.wake = Some(now);
        }
    }
}
