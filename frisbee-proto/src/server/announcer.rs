//! When the next ANNOUNCE is due.
//!
//! When the queue has run dry or has just been filled, ANNOUNCEs come quickly, then after twice as long each time: what
//! they tell is urgent, and one may be lost. They take at most a twentieth of the rate.

use std::time::{Duration, Instant};

use super::pacing::wire_time;
use crate::wire::ANNOUNCE_SIZE;

/// The first time between two ANNOUNCEs after the queue has run dry, or was filled.
const FIRST: Duration = Duration::from_millis(10);
/// The longest while there is something to send: promises and losses are known that soon.
const ACTIVE: Duration = Duration::from_millis(100);
/// The longest otherwise: how long a new client waits for its first one.
const IDLE: Duration = Duration::from_secs(1);
/// ANNOUNCEs take at most one part in this many of the rate.
const SHARE: u64 = 20;

#[derive(Debug)]
pub(super) struct Announcer {
    last: Option<Instant>,
    interval: Duration,
    /// Wire bytes of one.
    wire_bytes: u64,
}

impl Announcer {
    /// The first ANNOUNCE is due at once. `framing` bytes are counted beside its payload.
    pub(super) fn new(framing: usize) -> Self {
        Self {
            last: None,
            interval: FIRST,
            wire_bytes: u64::try_from(ANNOUNCE_SIZE + framing).unwrap_or(u64::MAX),
        }
    }

    /// The queue has run dry, or is being filled, or a client seems to have missed that it ran dry.
    pub(super) fn hurry(&mut self) {
        self.interval = FIRST;
    }

    /// When the next one is due: never before `now` only if none was sent yet.
    pub(super) fn due(&self, now: Instant, idle: bool, rate: u64) -> Instant {
        let least = wire_time(self.wire_bytes.saturating_mul(SHARE), rate);
        let interval = self.interval.min(longest(idle)).max(least);
        self.last.map_or(now, |last| last + interval)
    }

    /// One was sent.
    pub(super) fn sent(&mut self, now: Instant, idle: bool) {
        self.last = Some(now);
        self.interval = (self.interval * 2).min(longest(idle));
    }
}

fn longest(idle: bool) -> Duration {
    if idle { IDLE } else { ACTIVE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FRAMING;

    fn times(
        announcer: &mut Announcer,
        now: Instant,
        count: usize,
        idle: bool,
        rate: u64,
    ) -> Vec<u128> {
        let mut at = now;
        let sent = (0..count).map(|_| {
            at = announcer.due(at, idle, rate);
            announcer.sent(at, idle);
            (at - now).as_millis()
        });
        sent.collect()
    }

    #[test]
    fn quickly_at_first_and_then_seldom() {
        let now = Instant::now();
        let mut announcer = Announcer::new(FRAMING);
        let idle = times(&mut announcer, now, 10, true, 1_000_000_000);
        assert_eq!(idle, [0, 20, 60, 140, 300, 620, 1260, 2260, 3260, 4260]);
        announcer.hurry();
        let busy = times(&mut announcer, now, 6, false, 1_000_000_000);
        assert_eq!(busy, [4270, 4290, 4330, 4410, 4510, 4610]);
    }

    #[test]
    fn at_most_a_twentieth_of_a_low_rate() {
        let sent = times(
            &mut Announcer::new(FRAMING),
            Instant::now(),
            3,
            false,
            109_280,
        );
        assert_eq!(sent, [0, 2000, 4000], "one takes 100 ms");
    }
}
