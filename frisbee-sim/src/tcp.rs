//! A TCP stream that always has something to send: CUBIC (RFC 9438) with selective acknowledgements, without I/O.
//!
//! What is lost counts as sent; the stream is measured by what arrives.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Segments that a loss is believed after (RFC 5681).
const REORDERED: u64 = 3;
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
const BETA: f64 = 0.7;
const C: f64 = 0.4;

#[derive(Debug)]
pub(crate) struct Tcp {
    window: f64,
    threshold: f64,
    next: u64,
    /// Segments under way and when they left.
    under_way: VecDeque<(u64, Instant)>,
    /// Losses before this segment were answered.
    answered: u64,
    heard: Instant,
    trip: Duration,
    /// The window before the last loss, and when that was.
    most: f64,
    since: Instant,
    /// The window that Reno would have.
    reno: f64,
    /// Segments that arrived.
    arrived: u64,
}

impl Tcp {
    /// Wire bytes of a segment.
    pub(crate) const WIRE: u64 = 1538;
    /// There and back, without queues.
    pub(crate) const DELAY: Duration = Duration::from_micros(500);

    pub(crate) fn new(now: Instant) -> Self {
        Self {
            window: 10.0,
            threshold: f64::MAX,
            next: 0,
            under_way: VecDeque::new(),
            answered: 0,
            heard: now,
            trip: Duration::from_millis(10),
            most: 0.0,
            since: now,
            reno: 0.0,
            arrived: 0,
        }
    }

    /// Segments that arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// The next segment that may leave.
    pub(crate) fn segment(&mut self, now: Instant) -> Option<u64> {
        if self.under_way.len() as f64 >= self.window.floor().max(1.0) {
            return None;
        }
        self.under_way.push_back((self.next, now));
        self.next += 1;
        Some(self.next - 1)
    }

    pub(crate) fn acknowledged(&mut self, now: Instant, segment: u64) {
        let place = self
            .under_way
            .partition_point(|&(other, _)| other < segment);
        let Some((_, left)) = self
            .under_way
            .remove(place)
            .filter(|&(it, _)| it == segment)
        else {
            return;
        };
        (self.heard, self.trip) = (now, (self.trip * 7 + (now - left)) / 8);
        self.arrived += 1;
        let mut lost = false;
        while let Some(&(oldest, _)) = self.under_way.front()
            && oldest + REORDERED <= segment
        {
            self.under_way.pop_front();
            lost |= oldest >= self.answered;
        }
        if lost {
            self.answered = self.next;
            self.most = self.window;
            self.window = (self.window * BETA).max(2.0);
            (self.threshold, self.reno, self.since) = (self.window, self.window, now);
        } else if self.window < self.threshold {
            self.window += 1.0;
        } else {
            self.grow(now);
        }
    }

    fn grow(&mut self, now: Instant) {
        let time = (now - self.since + self.trip).as_secs_f64();
        let origin = (self.most * (1.0 - BETA) / C).cbrt();
        let target = C * (time - origin).powi(3) + self.most;
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        let more = (target.clamp(self.window, self.window * 1.5) - self.window) / self.window;
        self.window = (self.window + more).max(self.reno);
    }

    /// After long silence everything under way is lost.
    pub(crate) fn check(&mut self, now: Instant) {
        if !self.under_way.is_empty() && now - self.heard > MIN_TIMEOUT + self.trip * 2 {
            (self.most, self.threshold) = (self.window, (self.window * BETA).max(2.0));
            (self.window, self.reno) = (1.0, self.threshold);
            self.under_way.clear();
            (self.answered, self.heard, self.since) = (self.next, now, now);
        }
    }
}
