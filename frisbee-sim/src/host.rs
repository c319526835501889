//! A server with the disk that it reads from.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::{Error, Server, ServerConfig};

use crate::golden::Golden;
use crate::invariants::Broken;

/// Every work takes so long.
const LEAST: Duration = Duration::from_micros(500);

/// What a server's driver does beside sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Reads an object.
    Read,
    /// Computes its parity.
    Encode,
}

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
    encoding: BTreeSet<u32>,
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
            encoding: BTreeSet::new(),
        })
    }

    /// Begins to read an object, or to compute its parity; returns for how long: for up to `most`, and half a millisecond.
    pub(crate) fn begin(
        &mut self,
        place: usize,
        object: u32,
        work: Work,
        most: Duration,
        random: &mut fastrand::Rng,
    ) -> Result<Duration, Broken> {
        let under_way = match work {
            Work::Read => &mut self.loading,
            Work::Encode => &mut self.encoding,
        };
        if object > self.golden.last() || !under_way.insert(object) {
            let host = place;
            return Err(Broken::Load { host, object });
        }
        self.loads += u64::from(work == Work::Read);
        Ok(LEAST + most.mul_f64(random.f64()))
    }

    /// That has been done.
    pub(crate) fn done(&mut self, now: Instant, object: u32, work: Work) {
        let place = object as usize;
        match work {
            Work::Read => self.loading.remove(&object),
            Work::Encode => self.encoding.remove(&object),
        };
        if !self.up {
            return;
        }
        self.wake = Some(now);
        match work {
            Work::Read => {
                let loaded = Arc::clone(&self.golden.objects[place]);
                self.server.handle_loaded(now, object, loaded);
            }
            Work::Encode => {
                let parity = self.golden.parity[place].clone();
                self.server.handle_parity(now, object, parity);
            }
        }
    }
}
