//! A link emulator without I/O: a datagram goes in with a time, its copies come out with theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::FRAMING;

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
    /// What the port carries, if less than what comes.
    pub(crate) pipe: Option<Pipe>,
}

/// A line with a rate, and a queue before it that drops what has no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pipe {
    /// Bits per second on the wire.
    pub(crate) rate: u64,
    /// Bytes that wait at most.
    pub(crate) buffer: u64,
}

/// A [`Pipe`] in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) pipe: Pipe,
    clear: Option<Instant>,
    /// Wire bytes that passed.
    pub(crate) passed: u64,
}

impl Queue {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            clear: None,
            passed: 0,
        }
    }

    /// When so many bytes are through; `None` if they are dropped.
    pub(crate) fn pass(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let time = |bytes: u64| Duration::from_nanos(bytes * 8_000_000_000 / self.pipe.rate);
        let clear = self.clear.map_or(now, |clear| clear.max(now));
        if clear - now > time(self.pipe.buffer) {
            return None;
        }
        self.passed += bytes;
        self.clear = Some(clear + time(bytes));
        self.clear
    }
}

impl Quality {
    pub(crate) const GOOD: Self = Self {
        loss: Loss::Random(0.0),
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(100),
        reordered: 0.0,
        duplicated: 0.0,
        corrupted: 0.0,
        pipe: None,
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
    queue: Option<Queue>,
    bad: bool,
    last: Option<Instant>,
}

impl Link {
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: fastrand::Rng::with_seed(seed),
            queue: quality.pipe.map(Queue::new),
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
        let mut now = now;
        if let Some(queue) = &mut self.queue {
            match queue.pass(now, (datagram.len() + FRAMING) as u64) {
                Some(through) => now = through,
                None => return Vec::new(),
            }
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
