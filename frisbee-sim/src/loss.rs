//! How datagrams are lost: the models, and the fate of one receiver.

/// How datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each with this probability, independently.
    Random(f64),
    /// In bursts (Gilbert-Elliott): none in the good state, `lost` of them in the bad one.
    Bursts {
        /// Probability that a datagram in the good state begins a bad one.
        begin: f64,
        /// Probability that a datagram in the bad state ends it.
        end: f64,
        /// Probability that a datagram is lost in the bad state.
        lost: f64,
    },
}

impl Loss {
    /// No loss at all.
    pub const NONE: Self = Self::Random(0.0);

    /// Bursts that lose all of `length` datagrams on average, and the share `mean` of all datagrams.
    pub fn bursts(mean: f64, length: f64) -> Self {
        let end = 1.0 / length.max(1.0);
        let begin = (end * mean / (1.0 - mean)).min(1.0);
        Self::Bursts {
            begin,
            end,
            lost: 1.0,
        }
    }

    /// The share of all datagrams that is lost.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Random(probability) => probability,
            Self::Bursts { lost, .. } => self.bad() * lost,
        }
    }

    /// The share of the time spent in the bad state.
    pub(crate) fn bad(&self) -> f64 {
        match *self {
            Self::Bursts { begin, end, .. } if begin > 0.0 => begin / (begin + end),
            _ => 0.0,
        }
    }
}

/// Which datagrams one receiver loses. Sixteen bytes, and a random number only where something changes: a crowd has
/// a million of them. The model is the caller's, since a crowd shares it.
#[derive(Debug)]
pub struct Fate {
    random: fastrand::Rng,
    /// Datagrams until the next loss, or in a model with bursts until the state changes.
    left: u32,
    bad: bool,
}

impl Fate {
    /// Begins in a state as it is in the long run.
    pub fn new(loss: &Loss, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let bad = random.f64() < loss.bad();
        let mut fate = Self {
            random,
            left: 0,
            bad,
        };
        fate.left = fate.draw(loss);
        fate
    }

    /// Whether the next datagram is lost.
    pub fn is_lost(&mut self, loss: &Loss) -> bool {
        if self.left > 0 {
            self.left -= 1;
        } else {
            match loss {
                Loss::Random(_) => {
                    self.left = self.draw(loss);
                    return true;
                }
                Loss::Bursts { .. } => {
                    self.bad = !self.bad;
                    self.left = self.draw(loss);
                }
            }
        }
        match *loss {
            Loss::Random(_) => false,
            Loss::Bursts { lost, .. } => self.bad && self.random.f64() < lost,
        }
    }

    fn draw(&mut self, loss: &Loss) -> u32 {
        let probability = match *loss {
            Loss::Random(probability) => probability,
            Loss::Bursts { end, .. } if self.bad => end,
            Loss::Bursts { begin, .. } => begin,
        };
        failures_before_success(probability, &mut self.random)
    }
}

/// A geometrically distributed number.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is too large becomes the largest number"
)]
fn failures_before_success(probability: f64, random: &mut fastrand::Rng) -> u32 {
    if probability <= 0.0 {
        return u32::MAX;
    }
    // 1 - f64() is never 0.
    ((1.0 - random.f64()).ln() / (-probability).ln_1p()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(loss: &Loss, seed: u64) -> Vec<bool> {
        let mut fate = Fate::new(loss, seed);
        (0..1_000_000).map(|_| fate.is_lost(loss)).collect()
    }

    fn share(lost: &[bool]) -> f64 {
        lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64
    }

    #[test]
    fn random_loss_has_its_share_and_no_memory() {
        for probability in [0.0, 0.01, 0.05, 0.5, 1.0] {
            let lost = lost(&Loss::Random(probability), 1);
            let found = share(&lost);
            assert!((found - probability).abs() < 0.0015, "{found}");
            let after: Vec<bool> = lost
                .windows(2)
                .filter(|pair| pair[0])
                .map(|pair| pair[1])
                .collect();
            assert!(after.is_empty() || (share(&after) - probability).abs() < 0.01);
        }
    }

    #[test]
    fn bursts_have_their_share_and_length() {
        for (mean, length) in [(0.01, 10.0), (0.05, 4.0), (0.2, 50.0)] {
            let loss = Loss::bursts(mean, length);
            assert!((loss.mean() - mean).abs() < 1e-9);
            let lost = lost(&loss, 2);
            let bursts = lost.windows(2).filter(|pair| pair[1] && !pair[0]).count();
            let found = share(&lost);
            let average = found * lost.len() as f64 / bursts as f64;
            assert!((found / mean - 1.0).abs() < 0.1, "{found} of {mean}");
            assert!(
                (average / length - 1.0).abs() < 0.1,
                "{average} of {length}"
            );
        }
        let part = Loss::Bursts {
            begin: 0.01,
            end: 0.09,
            lost: 0.5,
        };
        assert!((share(&lost(&part, 3)) - 0.05).abs() < 0.005);
    }
}
