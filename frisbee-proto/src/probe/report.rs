//! What a probe has found out, and what it means.

use std::net::SocketAddr;
use std::time::Duration;

use super::NEEDED_SIZE;
use super::wire::Way;

/// Loss up to which a rate counts as one that the network carries, in parts per thousand.
const GOOD: u32 = 10;
/// Loss from which on even the lowest rate is too much.
const HOPELESS: u32 = 200;

/// Datagrams of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeReport {
    /// Bytes of UDP payload; 0 if none of this step has arrived.
    pub size: u16,
    /// Datagrams that have arrived.
    pub received: u32,
    /// Datagrams that were sent.
    pub sent: u32,
}

/// Datagrams at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// Rate at which they were sent, in bits per second on the wire; 0 if none has arrived.
    pub rate: u64,
    /// Datagrams that were sent.
    pub sent: u32,
    /// Datagrams that have arrived.
    pub received: u32,
    /// Rate at which they arrived, in bits per second on the wire.
    pub arrived: u64,
}

impl StepReport {
    /// Datagrams lost, in parts per thousand, rounded up.
    pub fn lost(&self) -> u32 {
        let lost = u64::from(self.sent.saturating_sub(self.received));
        u32::try_from((lost * 1000).div_ceil(u64::from(self.sent.max(1)))).unwrap_or(1000)
    }
}

/// What a client has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The server that was heard first.
    pub server: Option<SocketAddr>,
    /// Datagrams of it by the group.
    pub group: u32,
    /// Datagrams of it by the group of all machines, which switches always pass on.
    pub all_hosts: u32,
    /// Answers of it to this client alone.
    pub unicast: u32,
    /// Ways on which it has heard this client, see [`Way::bit`].
    pub heard: u8,
    /// Time to live (hop limit) with which it multicasts.
    pub ttl: u8,
    /// Bytes of the largest datagram by the group that has arrived.
    pub largest: u16,
    /// Datagrams of each size.
    pub sizes: Vec<SizeReport>,
    /// Datagrams at each rate.
    pub steps: Vec<StepReport>,
    /// A run of the server was heard from its beginning to its end.
    pub is_complete: bool,
    /// The group fell silent while answers still came, after this long.
    pub stopped: Option<Duration>,
    /// Datagrams of other probing servers.
    pub others: u32,
    /// Announcements of images by the group, and who sends them.
    pub announces: u32,
    /// Who announces an image.
    pub announcer: Option<SocketAddr>,
}

/// What the machine knows beside what it has received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The server's address is not in the network of the interface: there are routers between.
    pub routed: bool,
    /// Broadcast takes the place of multicast.
    pub broadcast: bool,
}

/// What a report means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It works, up to this rate in bits per second, with so much loss in parts per thousand. `None` if no rate was
    /// tried.
    Works(Option<(u64, u32)>),
    /// Nothing was heard of any server.
    Silence,
    /// The group arrives, but the server does not hear this client.
    Deaf,
    /// The group of all machines arrives, the group does not: a switch snoops and does not know of this member.
    Snooping,
    /// There is a router between, and datagrams do not live long enough to pass it.
    Ttl,
    /// Routers are between, and do not pass the group on.
    Routers,
    /// Answers arrive, but nothing that is sent to groups.
    Blocked,
    /// The group arrived and fell silent after this long, while answers still came.
    Stopped(Duration),
    /// Datagrams of this size do not arrive, smaller ones do.
    Mtu(u16),
    /// Even at the lowest rate so much is lost, in parts per thousand.
    Lossy(u32),
    /// The server fell silent before its run was over.
    Interrupted,
}

impl Verdict {
    /// Whether a transfer works.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Works(_))
    }

    /// A word for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Works(_) => "works",
            Self::Silence => "silence",
            Self::Deaf => "server-deaf",
            Self::Snooping => "snooping",
            Self::Ttl => "ttl",
            Self::Routers => "routers",
            Self::Blocked => "blocked",
            Self::Stopped(_) => "stopped",
            Self::Mtu(_) => "mtu",
            Self::Lossy(_) => "lossy",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Report {
    /// Whether the server has heard this client on this way.
    pub fn was_heard(&self, way: Way) -> bool {
        self.heard & way.bit() != 0
    }

    /// The highest rate that the network carried, and the loss at it in parts per thousand.
    pub fn best(&self) -> Option<(u64, u32)> {
        let good = self
            .steps
            .iter()
            .rev()
            .find(|step| step.rate > 0 && step.lost() <= GOOD);
        let any = good.or_else(|| self.steps.iter().min_by_key(|step| step.lost()));
        any.map(|step| (step.rate, step.lost()))
    }

    /// What it means.
    pub fn verdict(&self, here: Circumstances) -> Verdict {
        if self.server.is_none() {
            return match self.announces {
                0 => Verdict::Silence,
                _ => Verdict::Works(None),
            };
        }
        if self.group == 0 {
            return match (self.all_hosts, here.routed, self.ttl) {
                (1.., _, _) if !here.broadcast => Verdict::Snooping,
                (_, true, 0..=1) => Verdict::Ttl,
                (_, true, _) => Verdict::Routers,
                _ => Verdict::Blocked,
            };
        }
        if self.unicast == 0 && !self.is_complete {
            return Verdict::Deaf;
        }
        if let Some(after) = self.stopped {
            return Verdict::Stopped(after);
        }
        let tried = self.sizes.iter().any(|size| size.received > 0);
        if self.is_complete && self.largest < NEEDED_SIZE && (tried || self.sizes.len() > 1) {
            return Verdict::Mtu(NEEDED_SIZE);
        }
        match self.best() {
            Some((_, lost)) if lost > HOPELESS => Verdict::Lossy(lost),
            Some(best) => Verdict::Works(Some(best)),
            None => Verdict::Interrupted,
        }
    }
}
