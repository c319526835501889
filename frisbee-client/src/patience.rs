//! How long to wait for a server, and what to say meanwhile.

use std::time::{Duration, Instant};

/// Time between two lines about waiting.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Watches for progress.
#[derive(Debug)]
pub(crate) struct Patience {
    timeout: Option<Duration>,
    seen: u64,
    since: Instant,
    next_line: Instant,
}

/// What there is to do about the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Wait,
    /// Tell the user what is waited for, for this long already.
    Say(Duration),
    /// The time is over.
    GiveUp(Duration),
}

impl Patience {
    /// Begins to wait. Without a `timeout` it never ends.
    pub(crate) fn new(now: Instant, timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            seen: 0,
            since: now,
            next_line: now + LINE_INTERVAL,
        }
    }

    /// Looks at a number that grows with everything useful that comes. While this client itself is `busy` with what
    /// has come, nobody else is waited for.
    pub(crate) fn look(&mut self, now: Instant, progress: u64, busy: bool) -> Verdict {
        if busy || progress != self.seen {
            (self.seen, self.since, self.next_line) = (progress, now, now + LINE_INTERVAL);
            return Verdict::Wait;
        }
        let waited = now.saturating_duration_since(self.since);
        if self.timeout.is_some_and(|timeout| waited >= timeout) {
            return Verdict::GiveUp(waited);
        }
        if now < self.next_line {
            return Verdict::Wait;
        }
        self.next_line = now + LINE_INTERVAL;
        Verdict::Say(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn speaks_every_ten_seconds_and_gives_up_in_time() {
        let start = Instant::now();
        let mut patience = Patience::new(start, Some(seconds(25)));
        let verdicts: Vec<_> = (0..=25)
            .map(|second| patience.look(start + seconds(second), 0, false))
            .collect();
        for (second, verdict) in (0..).zip(verdicts) {
            let expected = match second {
                10 | 20 => Verdict::Say(seconds(second)),
                25 => Verdict::GiveUp(seconds(25)),
                _ => Verdict::Wait,
            };
            assert_eq!(verdict, expected, "after {second} s");
        }
    }

    #[test]
    fn progress_and_own_work_start_the_time_anew() {
        let start = Instant::now();
        let mut patience = Patience::new(start, Some(seconds(15)));
        assert_eq!(patience.look(start + seconds(14), 1, false), Verdict::Wait);
        assert_eq!(patience.look(start + seconds(28), 1, true), Verdict::Wait);
        assert_eq!(
            patience.look(start + seconds(42), 1, false),
            Verdict::Say(seconds(14))
        );
        assert_eq!(
            patience.look(start + seconds(43), 1, false),
            Verdict::GiveUp(seconds(15))
        );
    }

    #[test]
    fn without_a_timeout_it_waits_for_ever() {
        let start = Instant::now();
        let mut patience = Patience::new(start, None);
        let day = seconds(86_400);
        assert_eq!(patience.look(start + day, 0, false), Verdict::Say(day));
    }
}
