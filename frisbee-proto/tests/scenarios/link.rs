//! A link emulator without I/O: a datagram goes in with a time, its copies come out with theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How datagrams are lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Each with this probability, independently.
    Random(f64),
    /// In bursts (Gilbert-Elliott): none in the good state, `lost` in the bad one.
    Bursts { begin: f64, end: f64, lost: f64 },
}

/// What a link does to datagrams; probabilities are per datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) loss: Loss,
    pub(crate) delay: Duration,
    /// Random delay on top; keeps the order.
    pub(crate) jitter: Duration,
    /// Delayed by up to a millisecond more than what was sent after it.
    pub(crate) reordered: f64,
    pub(crate) duplicated: f64,
    /// One bit changed (and the checksum right again).
    pub(crate) corrupted: f64,
}

impl Quality {
    pub(crate) const GOOD: Self = Self {
        loss: Loss::Random(0.0),
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(100),
        reordered: 0.0,
        duplicated: 0.0,
        corrupted: 0.0,
    };

    pub(crate) fn losing(probability: f64) -> Self {
        Self {
            loss: Loss::Random(probability),
            ..Self::GOOD
        }
    }
}

/// One direction to one receiver.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) quality: Quality,
    random: fastrand::Rng,
    bad: bool,
    last: Option<Instant>,
}

impl Link {
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: fastrand::Rng::with_seed(seed),
            bad: false,
            last: None,
        }
    }

    /// The copies of a datagram that arrive, and when.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        datagram: &Arc<[u8]>,
    ) -> Vec<(Instant, Arc<[u8]>)> {
        let lost = match self.quality.loss {
            Loss::Random(probability) => self.random.f64() < probability,
            Loss::Bursts { begin, end, lost } => {
                let turn = if self.bad { end } else { begin };
                self.bad ^= self.random.f64() < turn;
                self.bad && self.random.f64() < lost
            }
        };
        if lost {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.random.f64() < self.quality.duplicated);
        (0..copies)
            .map(|_| (self.arrival(now), self.maybe_corrupt(datagram)))
            .collect()
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let regular = now + self.quality.delay + self.quality.jitter.mul_f64(self.random.f64());
        if self.random.f64() < self.quality.reordered {
            return regular + Duration::from_millis(1).mul_f64(self.random.f64());
        }
        let arrival = self.last.map_or(regular, |last| last.max(regular));
        self.last = Some(arrival);
        arrival
    }

    fn maybe_corrupt(&mut self, datagram: &Arc<[u8]>) -> Arc<[u8]> {
        if self.random.f64() >= self.quality.corrupted {
            return Arc::clone(datagram);
        }
        let mut bytes = datagram.to_vec();
        let place = self.random.usize(..bytes.len());
        bytes[place] ^= 1 << self.random.u8(..8);
        bytes.into()
    }
}
