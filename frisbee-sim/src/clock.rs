//! The virtual clock: what is going to happen, in order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Events by time; of the same time the one that was scheduled first.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Timed<T>>,
    count: u64,
}

#[derive(Debug)]
struct Timed<T> {
    at: Instant,
    number: u64,
    event: T,
}

impl<T> PartialEq for Timed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Timed<T> {}

impl<T> PartialOrd for Timed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Timed<T> {
    /// The earliest is the greatest, which the heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            count: 0,
        }
    }

    pub(crate) fn push(&mut self, at: Instant, event: T) {
        self.count += 1;
        let number = self.count;
        self.heap.push(Timed { at, number, event });
    }

    /// When the next event is.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|timed| timed.at)
    }

    /// The next event that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|&at| at <= now)?;
        self.heap.pop().map(|timed| timed.event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn by_time_and_then_as_scheduled() {
        let begin = Instant::now();
        let mut queue = Queue::new();
        for (millis, event) in [(3, 'c'), (1, 'a'), (3, 'd'), (2, 'b')] {
            queue.push(begin + Duration::from_millis(millis), event);
        }
        assert_eq!(queue.next(), Some(begin + Duration::from_millis(1)));
        let mut due = |millis| {
            let now = begin + Duration::from_millis(millis);
            std::iter::from_fn(|| queue.pop(now)).collect::<String>()
        };
        assert_eq!(
            (due(0), due(2), due(9)),
            (String::new(), "ab".into(), "cd".into())
        );
    }
}
