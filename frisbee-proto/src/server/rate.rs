//! The rate below the ceiling: grows while it is used, falls to what was delivered when too many lose too much.
//!
//! Every 100 ms the loss that 90 % of the reports stay under decides: up to 12 % is taken for the random loss of a
//! bad cable or of Wi-Fi, which sending more slowly would not mend; more is taken for a link that is full. The tenth
//! that is worse off never slows the others: late passes finish it.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(100);
/// Where a server without a ceiling begins: what any gigabit link carries.
const START: u64 = 200_000_000;
/// Loss never brings the rate below this.
const FLOOR: u64 = 5_000_000;
/// Loss in percent that is not taken for congestion.
const TOLERATED: u64 = 12;
/// Reports about fewer datagrams than this say little about the loss.
const LEAST_DATAGRAMS: u32 = 32;
/// After a cut, intervals in which reports still speak of the rate before it.
const HOLD: u32 = 2;

#[derive(Debug)]
pub(super) struct Rate {
    ceiling: u64,
    rate: u64,
    interval: Instant,
    /// Wire bytes sent in this interval.
    sent: u64,
    /// Number of reports in this interval by their loss in percent.
    reports: [u32; 101],
    hold: u32,
    /// The rate that was too much last time.
    too_much: Option<u64>,
}

impl Rate {
    pub(super) fn new(now: Instant, ceiling: Option<u64>) -> Self {
        let rate = ceiling.unwrap_or(START).max(1);
        let ceiling = ceiling.unwrap_or(u64::MAX).max(1);
        Self { ceiling, rate, interval: now, sent: 0, reports: [0; 101], hold: 0, too_much: None }
    }

    /// Bits per second on the wire.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// So many wire bytes were sent.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// A client's report about this stream.
    pub(super) fn report(&mut self, received: u32, lost: u32) {
        let all = u64::from(received) + u64::from(lost);
        if all < LEAST_DATAGRAMS.into() {
            return;
        }
        let percent = u64::from(lost) * 100 / all;
        if let Some(count) = usize::try_from(percent).ok().and_then(|percent| self.reports.get_mut(percent)) {
            *count = count.saturating_add(1);
        }
    }

    /// Time has passed: at the end of an interval the rate changes.
    pub(super) fn update(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.interval);
        if elapsed < INTERVAL {
            return;
        }
        let loss = self.loss();
        let carried = u128::from(self.rate) * elapsed.as_nanos() / 8_000_000_000;
        let used = u128::from(self.sent) * 10 >= carried * 8;
        self.hold = self.hold.saturating_sub(1);
        if loss > TOLERATED {
            if self.hold == 0 {
                self.too_much = Some(self.rate);
                let delivered = self.rate / 100 * (100 - loss);
                self.rate = delivered.max(FLOOR).min(self.rate);
                self.hold = HOLD;
            }
        } else if used && self.hold == 0 {
            self.grow();
        }
        self.interval = now;
        self.sent = 0;
        self.reports = [0; 101];
    }

    /// By half while nothing was ever too much, quickly back to the neighbourhood of what was, carefully through it.
    fn grow(&mut self) {
        let percent = match self.too_much {
            None => 150,
            Some(limit) if self.rate < limit / 10 * 9 => 125,
            Some(_) => 102,
        };
        self.rate = (self.rate / 100).saturating_mul(percent).max(self.rate.saturating_add(1)).min(self.ceiling);
        self.too_much = self.too_much.filter(|limit| self.rate < limit / 10 * 12);
    }

    /// The loss in percent that 90 % of this interval's reports stay under.
    fn loss(&self) -> u64 {
        let total: u64 = self.reports.iter().map(|&count| u64::from(count)).sum();
        let mut worse = 0;
        for (percent, &count) in (0..101_u64).rev().zip(self.reports.iter().rev()) {
            worse += u64::from(count);
            if worse * 10 > total {
                return percent;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs intervals in which the whole rate is used and every one of the reports arrives.
    fn run(rate: &mut Rate, now: &mut Instant, intervals: u32, reports: &[(u32, u32)]) {
        for _ in 0..intervals {
            *now += INTERVAL;
            rate.sent(rate.rate() / 80);
            for &(received, lost) in reports {
                rate.report(received, lost);
            }
            rate.update(*now);
        }
    }

    #[test]
    fn random_loss_of_five_percent_does_not_lower_it() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now, Some(1_000_000_000));
        run(&mut rate, &mut now, 50, &[(950, 50), (940, 60), (955, 45)]);
        assert_eq!(rate.rate(), 1_000_000_000);
    }

    #[test]
    fn a_full_link_brings_it_to_what_was_delivered_and_not_below_the_floor() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now, Some(1_000_000_000));
        run(&mut rate, &mut now, 1, &[(500, 500)]);
        assert_eq!(rate.rate(), 500_000_000);
        run(&mut rate, &mut now, 1, &[(500, 500)]);
        assert_eq!(rate.rate(), 500_000_000, "these reports are about the rate before");
        run(&mut rate, &mut now, 200, &[(500, 500)]);
        assert_eq!(rate.rate(), FLOOR);
        run(&mut rate, &mut now, 200, &[(1000, 0)]);
        assert_eq!(rate.rate(), 1_000_000_000, "and it recovers");
    }

    #[test]
    fn the_worst_tenth_does_not_slow_the_others() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now, Some(100_000_000));
        let mut reports = [(1000, 0); 20];
        reports[3] = (100, 900);
        reports[7] = (100, 900);
        run(&mut rate, &mut now, 20, &reports);
        assert_eq!(rate.rate(), 100_000_000);
        reports[9] = (100, 900);
        run(&mut rate, &mut now, 1, &reports);
        assert_eq!(rate.rate(), 10_000_000);
    }

    #[test]
    fn without_a_ceiling_it_grows_only_while_it_is_used() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now, None);
        now += INTERVAL;
        rate.update(now);
        assert_eq!(rate.rate(), START);
        run(&mut rate, &mut now, 5, &[]);
        assert!(rate.rate() > 1_000_000_000);
        run(&mut rate, &mut now, 500, &[]);
        assert!(rate.rate() > START, "no overflow on the way up");
    }
}
