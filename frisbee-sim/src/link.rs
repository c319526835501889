//! A link without I/O: a datagram goes in with a time, its copies come out with theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use frisbee_proto::FRAMING;

use crate::loss::{Fate, Loss};

/// What a link does to datagrams; probabilities are per datagram.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// How they are lost.
    pub loss: Loss,
    /// How long each takes.
    pub delay: Duration,
    /// Random delay on top; keeps the order.
    pub jitter: Duration,
    /// Delayed by up to [`Quality::LATE`] more than what was sent after it.
    pub reordered: f64,
    /// Arrives twice.
    pub duplicated: f64,
    /// One bit changed (and the checksum right again).
    pub corrupted: f64,
    /// A port that is slower than the sender, if it is.
    pub port: Option<Port>,
}

/// A port with a rate and a queue whose tail is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Bits per second, [`FRAMING`] included.
    pub rate: u64,
    /// Bytes that its queue holds, counted alike.
    pub buffer: u64,
}

impl Quality {
    /// A local network without faults.
    pub const GOOD: Self = Self {
        loss: Loss::NONE,
        delay: Duration::from_micros(200),
        jitter: Duration::from_micros(100),
        reordered: 0.0,
        duplicated: 0.0,
        corrupted: 0.0,
        port: None,
    };
    /// The most by which a reordered datagram is late.
    pub const LATE: Duration = Duration::from_millis(1);

    /// One that loses datagrams independently.
    pub fn losing(probability: f64) -> Self {
        Self {
            loss: Loss::Random(probability),
            ..Self::GOOD
        }
    }
}

/// The queue of a port.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    /// When all that is in the queue will have left.
    free: Option<Instant>,
}

impl Shaper {
    /// When a datagram of so many bytes has left, or `None` if the queue is full.
    pub(crate) fn pass(&mut self, now: Instant, port: &Port, bytes: usize) -> Option<Instant> {
        let begin = self.free.map_or(now, |free| free.max(now));
        let waiting = (begin - now).as_secs_f64() * port.rate as f64;
        let bits = (bytes + FRAMING) as f64 * 8.0;
        if waiting + bits > port.buffer as f64 * 8.0 {
            return None;
        }
        let left = begin + Duration::from_secs_f64(bits / port.rate.max(1) as f64);
        self.free = Some(left);
        Some(left)
    }
}

/// One direction to one receiver.
#[derive(Debug)]
pub struct Link {
    quality: Quality,
    random: fastrand::Rng,
    fate: Fate,
    shaper: Shaper,
    last: Option<Instant>,
}

impl Link {
    /// A link on which nothing was sent yet.
    pub fn new(quality: Quality, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let fate = Fate::new(&quality.loss, random.u64(..));
        Self {
            quality,
            random,
            fate,
            shaper: Shaper::default(),
            last: None,
        }
    }

    /// The copies of a datagram that arrive, and when.
    pub fn carry(&mut self, now: Instant, datagram: &Arc<[u8]>) -> Vec<(Instant, Arc<[u8]>)> {
        let now = match &self.quality.port {
            None => now,
            Some(port) => match self.shaper.pass(now, port, datagram.len()) {
                Some(left) => left,
                None => return Vec::new(),
            },
        };
        if self.fate.is_lost(&self.quality.loss) {
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
            return regular + Quality::LATE.mul_f64(self.random.f64());
        }
        let arrival = self.last.map_or(regular, |last| last.max(regular));
        self.last = Some(arrival);
        arrival
    }

    fn maybe_corrupt(&mut self, datagram: &Arc<[u8]>) -> Arc<[u8]> {
        if datagram.is_empty() || self.random.f64() >= self.quality.corrupted {
            return Arc::clone(datagram);
        }
        let mut bytes = datagram.to_vec();
        let place = self.random.usize(..bytes.len());
        bytes[place] ^= 1 << self.random.u8(..8);
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(quality: Quality, count: u32, gap: Duration) -> Vec<(u32, Duration)> {
        let begin = Instant::now();
        let mut link = Link::new(quality, 1);
        let arrivals = (0..count).flat_map(|number| {
            let datagram: Arc<[u8]> = number.to_le_bytes().into();
            link.carry(begin + gap * number, &datagram)
        });
        let mut arrivals: Vec<_> = arrivals
            .map(|(at, datagram)| {
                let number = datagram
                    .first_chunk()
                    .map_or(0, |number| u32::from_le_bytes(*number));
                (number, at - begin)
            })
            .collect();
        arrivals.sort_by_key(|&(_, at)| at);
        arrivals
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let gap = Duration::from_micros(10);
        let arrived = sent(Quality::GOOD, 5000, gap);
        assert!(arrived.is_sorted() && arrived.len() == 5000);
        let late = (0..)
            .zip(&arrived)
            .map(|(number, &(_, at))| at - gap * number);
        assert!(late.clone().all(|late| late >= Quality::GOOD.delay));
        let reordered = Quality {
            reordered: 0.1,
            ..Quality::GOOD
        };
        assert!(!sent(reordered, 5000, gap).is_sorted());
    }

    #[test]
    fn a_port_passes_its_rate_and_drops_what_its_queue_cannot_hold() {
        let port = Port {
            rate: 8 * (4 + FRAMING as u64) * 1000,
            buffer: 10 * (4 + FRAMING as u64),
        };
        let quality = Quality {
            jitter: Duration::ZERO,
            port: Some(port),
            ..Quality::GOOD
        };
        let arrived = sent(quality, 1000, Duration::from_micros(500));
        let passed = arrived.windows(2).map(|pair| pair[1].1 - pair[0].1);
        assert!(passed.clone().all(|gap| gap.as_micros().abs_diff(1000) < 2));
        assert!((500..520).contains(&arrived.len()), "{}", arrived.len());
        assert!(arrived.iter().all(|&(number, at)| {
            at < Duration::from_micros(500) * number + Duration::from_millis(200)
        }));
        assert_eq!(sent(quality, 1000, Duration::from_millis(1)).len(), 1000);
    }

    #[test]
    fn copies_and_false_bits_have_their_share() {
        let duplicated = Quality {
            duplicated: 0.25,
            ..Quality::GOOD
        };
        let copies = sent(duplicated, 4000, Duration::ZERO).len() - 4000;
        assert!((900..1100).contains(&copies), "{copies}");
        let corrupted = Quality {
            corrupted: 0.25,
            ..Quality::GOOD
        };
        let arrived = sent(corrupted, 4000, Duration::from_micros(200));
        let wrong = (0..)
            .zip(&arrived)
            .filter(|(at, (number, _))| at != number)
            .count();
        assert!((900..1100).contains(&wrong), "{wrong}");
    }
}
