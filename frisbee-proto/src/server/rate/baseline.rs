//! The loss that has nothing to do with the rate: bad cables, Wi-Fi. What exceeds it by more than chance is congestion.

use super::ONE;

/// Datagrams after which older ones count half or less: a few seconds at 100 Mbit/s.
const MEMORY: u64 = 60_000;
/// At first no more than this is taken for random.
const MOST_AT_FIRST: u64 = ONE / 8;
/// Standard deviations that are chance.
const DEVIATIONS: u64 = 4;
/// Mean deviations of what was measured that are chance: losses that come in bursts.
const MEAN_DEVIATIONS: u64 = 3;
/// Excess that is never looked at: a queue that overflows loses more.
const LEAST: u64 = 500;
/// Excess that is never taken for chance.
const MOST_CHANCE: u64 = ONE / 10;
/// The most that bursts are allowed to hide.
const MOST_DEVIATION: u64 = ONE / 100;

/// Parts in a million, over so many datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) part: u64,
    pub(super) datagrams: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Baseline {
    level: Loss,
    /// Mean deviation from the level, in parts in a million.
    deviation: u64,
}

impl Baseline {
    /// What of a loss is more than random, in parts in a million; 0 if it can be chance.
    pub(super) fn excess(&self, loss: Loss) -> u64 {
        let level = if self.level.datagrams == 0 {
            Loss {
                part: loss.part.min(MOST_AT_FIRST),
                datagrams: loss.datagrams,
            }
        } else {
            self.level
        };
        let excess = loss.part.saturating_sub(level.part);
        let chance = deviation(level.part, loss.datagrams) + deviation(level.part, level.datagrams);
        let least = LEAST
            .max(chance * DEVIATIONS)
            .max(self.deviation.min(MOST_DEVIATION) * MEAN_DEVIATIONS)
            .min(MOST_CHANCE);
        if excess > least { excess } else { 0 }
    }

    /// A loss was measured. The level falls quickly to what was once possible; it rises only if `random`: if the
    /// rate cannot be the reason.
    pub(super) fn learn(&mut self, loss: Loss, random: bool) {
        if loss.datagrams == 0 {
            return;
        }
        if self.level.datagrams == 0 {
            self.level = Loss {
                part: loss.part.min(MOST_AT_FIRST),
                ..loss
            };
            return;
        }
        let off = loss.part.abs_diff(self.level.part);
        self.deviation = (self.deviation * 15 + off.min(MOST_DEVIATION)) / 16;
        let less = loss.part < self.level.part;
        let chance = deviation(self.level.part, loss.datagrams) * 3;
        if less && self.level.part - loss.part > chance {
            self.level = loss;
            return;
        }
        if less || random {
            let weight = if less { 2 } else { 1 } * loss.datagrams.min(MEMORY);
            let known = self.level.datagrams.min(MEMORY);
            let part = (self.level.part * known + loss.part * weight) / (known + weight);
            self.level = Loss {
                part: part.min(self.level.part.max(MOST_AT_FIRST)),
                datagrams: known + loss.datagrams.min(MEMORY),
            };
        }
    }

    /// The loss that the rate is not the reason of, in parts in a million.
    pub(super) fn level(&self) -> u64 {
        self.level.part
    }

    /// This loss does not depend on the rate.
    pub(super) fn is(&mut self, loss: Loss) {
        self.level = loss;
    }
}

/// The standard deviation of a loss that so many datagrams show, in parts in a million; of none lost as of one.
fn deviation(part: u64, datagrams: u64) -> u64 {
    let datagrams = datagrams.max(1);
    let part = part.min(ONE);
    let variance = part * (ONE - part) + ONE * ONE / datagrams;
    (variance / datagrams).isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many datagrams show at a loss of `part`.
    fn sample(random: &mut fastrand::Rng, part: u64, datagrams: u64) -> Loss {
        let lost = (0..datagrams).filter(|_| random.u64(..ONE) < part).count() as u64;
        Loss {
            part: lost * ONE / datagrams,
            datagrams,
        }
    }

    #[test]
    fn random_loss_is_not_congestion_and_more_is() {
        let mut random = fastrand::Rng::with_seed(7);
        for part in [0, 1000, 10_000, 50_000, 110_000] {
            let mut baseline = Baseline::default();
            for _ in 0..2000 {
                let loss = sample(&mut random, part, 300);
                assert_eq!(baseline.excess(loss), 0, "{loss:?} of {part}: {baseline:?}");
                baseline.learn(loss, true);
            }
            let more = sample(&mut random, part + 50_000, 3000);
            assert!(baseline.excess(more) > 20_000, "{more:?}: {baseline:?}");
            // It falls at once and rises slowly, so it is rather too low.
            assert!(
                baseline.level.part.abs_diff(part) <= part / 4 + LEAST,
                "{baseline:?}"
            );
        }
    }

    #[test]
    fn it_rises_only_where_the_rate_is_not_the_reason() {
        let mut baseline = Baseline::default();
        let loss = |part| Loss {
            part,
            datagrams: 5000,
        };
        baseline.learn(loss(500_000), true);
        assert_eq!(baseline.level.part, MOST_AT_FIRST);
        (0..50).for_each(|_| baseline.learn(loss(0), false));
        assert!(baseline.level.part < 100, "{baseline:?}");
        (0..50).for_each(|_| baseline.learn(loss(30_000), false));
        assert!(baseline.excess(loss(31_000)) > 0, "{baseline:?}");
        (0..80).for_each(|_| baseline.learn(loss(30_000), true));
        assert_eq!(baseline.excess(loss(31_000)), 0, "{baseline:?}");
    }
}
