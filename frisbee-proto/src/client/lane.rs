//! Datagrams of its own: when a client asks a server for them, and the proof of its address that this takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::wire::{Challenge, RequestHead, RequestItems, Stream};

/// When a client asks for datagrams to itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unicast {
    /// It takes what comes to the group.
    Never,
    /// When something is lacking and nothing useful has come for a time; until something comes to the group again.
    Fallback {
        /// Whom it asks; without one, the server that was heard last.
        server: Option<SocketAddr>,
        /// The time.
        after: Duration,
    },
    /// From the beginning, from this server.
    Always(SocketAddr),
}

/// How often it is looked whether a lane is needed.
const LOOK: Duration = Duration::from_millis(250);
/// Between a CHALLENGE and its answer, whatever a forger sends.
const ANSWER_GAP: Duration = Duration::from_millis(20);
/// From the first knock to the second; then twice as long each time, up to a second.
const FIRST_KNOCK: Duration = Duration::from_millis(125);
/// A lane from which nothing useful has come for so long is knocked for again.
const LANE_SILENT: Duration = Duration::from_secs(1);

/// What a client knows about its need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Something is lacking, and there is a buffer for it.
    pub(super) waits: bool,
    /// When something was proven last, whoever sent it.
    pub(super) proven: Option<Instant>,
    /// A lane is being asked.
    pub(super) has_lane: bool,
    /// Whom the group has heard last.
    pub(super) server: Option<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct Lane {
    config: Unicast,
    client: u64,
    token: u64,
    /// Whom it asks for a lane, while it wants one.
    to: Option<SocketAddr>,
    knocked: Option<Instant>,
    knock_at: Instant,
    knocks: u32,
    look_at: Instant,
    /// Since when something is waited for.
    waiting: Instant,
}

impl Lane {
    pub(super) fn new(now: Instant, config: Unicast, client: u64) -> Self {
        Self {
            config,
            client,
            token: 0,
            to: match config {
                Unicast::Always(server) => Some(server),
                Unicast::Never | Unicast::Fallback { .. } => None,
            },
            knocked: None,
            knock_at: now,
            knocks: 0,
            look_at: now,
            waiting: now,
        }
    }

    /// The number of the client's run.
    pub(super) fn client(&self) -> u64 {
        self.client
    }

    /// The token of the last CHALLENGE, or 0.
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// Whether a lane of this server is wanted.
    pub(super) fn is_wanted(&self, from: SocketAddr) -> bool {
        self.to == Some(from)
    }

    /// Takes a CHALLENGE. One from elsewhere than where a lane was asked for is not answered, nor one that does not
    /// name this run: no forger knows its number who cannot see what this client sends.
    pub(super) fn challenge(&mut self, now: Instant, from: SocketAddr, challenge: Challenge) {
        let Challenge { client, token } = challenge;
        if !self.is_wanted(from) || client != self.client || self.token == token {
            return;
        }
        self.token = token;
        let soon = self.knocked.map_or(now, |last| now.max(last + ANSWER_GAP));
        (self.knock_at, self.look_at, self.knocks) = (soon, soon, 0);
    }

    /// The group works again: no lane is wanted.
    pub(super) fn leave(&mut self) {
        if !matches!(self.config, Unicast::Always(_)) {
            self.to = None;
        }
    }

    /// When [`Lane::look`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.config != Unicast::Never).then_some(self.look_at)
    }

    /// Decides whether a lane is needed. Returns where to send [`Lane::knock`] now.
    pub(super) fn look(
        &mut self,
        now: Instant,
        need: Need,
        random: &mut fastrand::Rng,
    ) -> Option<SocketAddr> {
        if !need.waits {
            self.waiting = now;
        }
        let since = need
            .proven
            .map_or(self.waiting, |proven| proven.max(self.waiting));
        let vain = now.saturating_duration_since(since);
        if let Unicast::Fallback { server, after } = self.config
            && !need.has_lane
        {
            let wanted = vain >= after || self.to.is_some();
            let to = server.or(need.server).filter(|_| wanted);
            if to != self.to {
                (self.to, self.token, self.knock_at, self.knocks) = (to, 0, now, 0);
            }
        }
        self.look_at = now + LOOK;
        let to = self.to?;
        if need.has_lane && vain < LANE_SILENT && self.knocks > 0 {
            self.knock_at = self.knock_at.max(now + LOOK);
            return None;
        }
        if now < self.knock_at {
            self.look_at = self.look_at.min(self.knock_at);
            return None;
        }
        let wait = (FIRST_KNOCK * (1 << self.knocks.min(3))).min(LANE_SILENT);
        // A room full of clients falls back at the same time.
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let wait = wait + Duration::from_micros(random.u64(..micros / 4));
        (self.knocked, self.knock_at) = (Some(now), now + wait);
        self.knocks = self.knocks.saturating_add(1);
        self.look_at = self.look_at.min(self.knock_at);
        Some(to)
    }

    /// The REQUEST for a lane: of an image, or of the server's one (zeros) if none is known yet.
    pub(super) fn knock(&self, uuid: [u8; 16]) -> Vec<u8> {
        let head = RequestHead {
            client: self.client,
            unicast: true,
            token: self.token,
            ..RequestHead::default()
        };
        RequestItems::default().encode(&Stream { number: 0, uuid }, 0, &head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7001))
    }

    fn need(proven: Option<Instant>) -> Need {
        Need {
            waits: true,
            proven,
            has_lane: false,
            server: Some(address(1)),
        }
    }

    #[test]
    fn falls_back_when_nothing_useful_has_come() {
        let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        let fallback = |server| Unicast::Fallback {
            server,
            after: AFTER,
        };
        for (server, expected) in [(None, address(1)), (Some(address(9)), address(9))] {
            let mut lane = Lane::new(start, fallback(server), 1);
            let look = |lane: &mut Lane, seconds, need, random: &mut _| {
                lane.look(start + Duration::from_secs(seconds), need, random)
            };
            assert_eq!(look(&mut lane, 4, need(None), &mut random), None);
            let proven = Some(start + Duration::from_secs(3));
            assert_eq!(look(&mut lane, 7, need(proven), &mut random), None);
            let idle = Need {
                waits: false,
                ..need(proven)
            };
            assert_eq!(look(&mut lane, 20, idle, &mut random), None);
            assert_eq!(look(&mut lane, 24, need(proven), &mut random), None);
            let knock = look(&mut lane, 25, need(proven), &mut random);
            assert_eq!(knock, Some(expected));
            assert!(lane.is_wanted(expected));
            lane.leave();
            assert!(!lane.is_wanted(expected));
        }
    }

    #[test]
    fn only_the_server_that_was_asked_may_challenge_and_not_in_a_flood() {
        let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut lane = Lane::new(start, Unicast::Always(address(1)), 1);
        assert_eq!(lane.look(start, need(None), &mut random), Some(address(1)));
        let challenge = |client, token| Challenge { client, token };
        lane.challenge(start, address(2), challenge(1, 5));
        lane.challenge(start, address(1), challenge(2, 5));
        assert_eq!(lane.token(), 0);
        let mut answers = 0;
        for token in 1..1000 {
            let now = start + Duration::from_millis(token);
            lane.challenge(now, address(1), challenge(1, token));
            if lane.deadline().is_some_and(|at| at <= now) {
                answers += u32::from(lane.look(now, need(None), &mut random).is_some());
            }
        }
        assert!((10..=50).contains(&answers), "{answers} in a second");
    }

    #[test]
    fn a_lane_is_not_knocked_for_while_something_comes() {
        let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut lane = Lane::new(start, Unicast::Always(address(1)), 1);
        let mut knocks = 0;
        for tick in 0..400 {
            let now = start + Duration::from_millis(tick * 25);
            let has_lane = Need {
                has_lane: true,
                ..need(Some(now))
            };
            let silent = if tick < 100 { need(None) } else { has_lane };
            knocks += u32::from(lane.look(now, silent, &mut random).is_some());
            if tick == 100 {
                assert!((4..=7).contains(&knocks), "{knocks} in 2.5 s");
                knocks = 0;
            }
        }
        assert_eq!(knocks, 0);
    }
}
