//! When which datagram was sent, for the recent past: with what a client has heard this says how long the oldest
//! datagram that it has not heard has been under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Datagrams sent within this time of each other are remembered together.
const RESOLUTION: Duration = Duration::from_millis(1);
/// Times remembered: at least four seconds of sending.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// The sequence after the last datagram of a batch, and when the first one left.
    marks: VecDeque<(u64, Instant)>,
}

impl Timeline {
    /// Datagrams up to `next`, exclusive, have left.
    pub(super) fn sent(&mut self, now: Instant, next: u64) {
        match self.marks.back_mut() {
            Some((end, at)) if now.saturating_duration_since(*at) < RESOLUTION => *end = next,
            _ => self.marks.push_back((next, now)),
        }
        if self.marks.len() > MOST {
            self.marks.pop_front();
        }
    }

    /// How long the datagram `next` has been under way; nothing if it has not left.
    pub(super) fn age(&self, now: Instant, next: u64) -> Duration {
        let place = self.marks.partition_point(|&(end, _)| end <= next);
        self.marks
            .get(place)
            .map_or(Duration::ZERO, |&(_, at)| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unheard_datagram_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut line = Timeline::default();
        assert_eq!(line.age(start, 0), Duration::ZERO);
        (0..10).for_each(|i| line.sent(at(i * 2), (i + 1) * 16));
        assert_eq!(line.age(at(20), 160), Duration::ZERO, "all heard");
        assert_eq!(line.age(at(20), 159).as_millis(), 2);
        assert_eq!(line.age(at(20), 32).as_millis(), 16);
        assert_eq!(line.age(at(20), 31).as_millis(), 18);
        (0..10_000).for_each(|i| line.sent(at(20 + i), 160 + i));
        assert_eq!(line.marks.len(), MOST);
    }
}
