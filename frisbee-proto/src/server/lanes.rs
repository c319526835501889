//! Lanes: machines that serve one client each, at its own address. There are few of them, and only for clients that
//! have proven to be where they say they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use super::{Server, ServerStats};

/// A lane whose client has been silent for so long is closed: it says something every two seconds.
const IDLE: Duration = Duration::from_secs(6);

/// No host has more than one part in this many of the lanes (but always one): others need them as well.
const HOST_SHARE: usize = 4;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) server: Server,
    heard: Instant,
}

#[derive(Debug)]
pub(super) struct Lanes {
    most: usize,
    open: BTreeMap<SocketAddr, Lane>,
    /// The lane that sent last.
    last: Option<SocketAddr>,
    /// What closed lanes have done.
    closed: ServerStats,
}

impl Lanes {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            open: BTreeMap::new(),
            last: None,
            closed: ServerStats::default(),
        }
    }

    /// Lanes that are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether one more may be opened for this address.
    pub(super) fn has_room(&self, address: SocketAddr) -> bool {
        let host = host(address.ip());
        let own = self
            .open
            .keys()
            .filter(|lane| self::host(lane.ip()) == host);
        self.open.len() < self.most && own.count() < (self.most / HOST_SHARE).max(1)
    }

    pub(super) fn open(&mut self, now: Instant, address: SocketAddr, server: Server) {
        let lane = Lane { server, heard: now };
        self.open.insert(address, lane);
    }

    /// The lane of an address, whose client has just been heard.
    pub(super) fn heard(&mut self, now: Instant, address: SocketAddr) -> Option<&mut Server> {
        let lane = self.open.get_mut(&address)?;
        lane.heard = now;
        Some(&mut lane.server)
    }

    pub(super) fn get(&mut self, address: SocketAddr) -> Option<&mut Server> {
        self.open.get_mut(&address).map(|lane| &mut lane.server)
    }

    pub(super) fn close(&mut self, address: SocketAddr) {
        if let Some(lane) = self.open.remove(&address) {
            self.closed.add(lane.server.stats());
        }
    }

    /// Closes the lanes of silent clients. Returns when to look again.
    pub(super) fn close_silent(&mut self, now: Instant) -> Option<Instant> {
        let silent = |lane: &Lane| now.saturating_duration_since(lane.heard) >= IDLE;
        let of = self.open.iter().filter(|(_, lane)| silent(lane));
        let closing: Vec<SocketAddr> = of.map(|(&address, _)| address).collect();
        for address in closing {
            self.close(address);
        }
        let first = self.open.values().map(|lane| lane.heard).min();
        first.map(|heard| heard + IDLE)
    }

    /// The addresses in the order in which they have their turn.
    pub(super) fn in_turn(&self) -> Vec<SocketAddr> {
        let Some(last) = self.last else {
            return self.open.keys().copied().collect();
        };
        let after = self.open.range((Excluded(last), Unbounded));
        let before = self.open.range(..=last);
        after.chain(before).map(|(&address, _)| address).collect()
    }

    /// This lane has had its turn.
    pub(super) fn sent(&mut self, address: SocketAddr) {
        self.last = Some(address);
    }

    /// Objects that some lane has queued.
    pub(super) fn queued_objects(&self) -> usize {
        let lanes = self.open.values();
        lanes.map(|lane| lane.server.queued_objects()).sum()
    }

    /// What all lanes have done.
    pub(super) fn stats(&self) -> ServerStats {
        let mut all = self.closed;
        for lane in self.open.values() {
            all.add(lane.server.stats());
        }
        all
    }
}

/// What one host can choose addresses from: an IPv4 address, or the first half of an IPv6 address.
fn host(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            [a, b, c, d]
                .iter()
                .fold(0, |host, &part| host << 16 | u64::from(part))
        }
    }
}
