//! A server that stays silent while it hears another one.
//!
//! Two servers at a time are harmless, so nothing here has to be agreed upon: random times keep two standbys from taking
//! over, and from stepping back, at the same moment.

use std::time::{Duration, Instant};

/// Microseconds of silence, at random, after which a standby takes over: an idle server announces itself every second.
const SILENCE: std::ops::Range<u64> = 2_100_000..2_800_000;

/// Microseconds, at random, for which another server has to be heard before this one steps back.
const YIELD: std::ops::Range<u64> = 300_000..1_500_000;

#[derive(Debug)]
pub(super) struct Standby {
    quiet: bool,
    /// When another server was heard last; at first the beginning.
    heard: Instant,
    patience: Duration,
    /// While this one serves: when it steps back, if the other one is heard still.
    yield_at: Option<Instant>,
    random: fastrand::Rng,
}

impl Standby {
    /// Begins silent.
    pub(super) fn new(now: Instant, mut random: fastrand::Rng) -> Self {
        let patience = Duration::from_micros(random.u64(SILENCE));
        Self {
            quiet: true,
            heard: now,
            patience,
            yield_at: None,
            random,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// When it takes over unless another server is heard.
    pub(super) fn take_over_at(&self) -> Option<Instant> {
        self.quiet.then(|| self.heard + self.patience)
    }

    /// Another server of the same image is there.
    pub(super) fn hear(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.heard);
        self.heard = now;
        if self.quiet {
            return;
        }
        match self.yield_at {
            Some(at) if gap < Duration::from_micros(SILENCE.start) => {
                if now >= at {
                    (self.quiet, self.yield_at) = (true, None);
                    self.patience = Duration::from_micros(self.random.u64(SILENCE));
                }
            }
            _ => self.yield_at = Some(now + Duration::from_micros(self.random.u64(YIELD))),
        }
    }

    /// Takes over if it is time. Returns for how long nobody was heard.
    pub(super) fn take_over(&mut self, now: Instant) -> Option<Duration> {
        if self.take_over_at().is_none_or(|at| now < at) {
            return None;
        }
        self.quiet = false;
        Some(now.saturating_duration_since(self.heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_while_another_one_is_heard_and_again_when_it_is_back() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for seed in 0..50 {
            let mut standby = Standby::new(start, fastrand::Rng::with_seed(seed));
            for second in 1..10 {
                assert!(standby.take_over(at(second * 1000)).is_none());
                standby.hear(at(second * 1000));
            }
            assert!(
                standby.take_over(at(11_000)).is_none(),
                "two ANNOUNCEs may be lost"
            );
            let silence = standby.take_over(at(11_900)).unwrap();
            assert!(silence < Duration::from_secs(3), "{silence:?}");
            standby.hear(at(20_000));
            assert!(!standby.is_quiet(), "a single ANNOUNCE may be a late one");
            standby.hear(at(21_000));
            standby.hear(at(22_000));
            assert!(standby.is_quiet());
        }
    }

    #[test]
    fn of_two_standbys_one_serves() {
        let start = Instant::now();
        for seed in 0..50 {
            let random = |more: u64| fastrand::Rng::with_seed(seed * 2 + more);
            let mut pair = [0, 1].map(|more| Standby::new(start, random(more)));
            let mut serving = [0, 0];
            for tick in 0..600_u64 {
                let now = start + Duration::from_millis(tick * 100);
                for standby in &mut pair {
                    standby.take_over(now);
                }
                let active = [0, 1].map(|place| !pair[place].is_quiet());
                for place in 0..2 {
                    serving[place] += u32::from(active[place]);
                    if active[1 - place] {
                        pair[place].hear(now);
                    }
                }
            }
            let (most, least) = (serving[0].max(serving[1]), serving[0].min(serving[1]));
            assert!(most > 500 && least < 50, "seed {seed}: {serving:?}");
        }
    }
}
