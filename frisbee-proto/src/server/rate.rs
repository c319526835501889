//! The rate below the ceiling: grows while it is used, falls to what was delivered when too many lose too much.
//!
//! Every 100 ms the loss that 90 % of the reports stay under decides; the tenth that is worse off never slows the
//! others, late passes finish it. Up to 12 % is taken for the random loss of a bad cable or of Wi-Fi. More is taken for
//! a full link, and the rate is cut to what came through. If that mends nothing, the loss was random as well: the rate
//! goes back to where it was, and only a loss that is higher still counts from then on.

use std::time::{Duration, Instant};

use crate::wire::RequestHead;

const INTERVAL: Duration = Duration::from_millis(100);
/// Where a server without a ceiling begins: what any gigabit link carries.
const START: u64 = 200_000_000;
/// Loss never brings the rate below this.
const FLOOR: u64 = 5_000_000;
/// Loss in percent, beyond the random one, that is not taken for congestion.
const TOLERATED: u64 = 12;
/// Most that is ever taken for random: a link that loses more is full or broken, and a forger who reports it must not
/// make the server deaf to the true reports.
const MOST_RANDOM: u64 = 40;
/// Reports about fewer datagrams than this say little about the loss.
const LEAST_DATAGRAMS: u32 = 32;
/// After a change, intervals in which reports still speak of the rate before it.
const HOLD: u32 = 3;

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
    /// Rate and loss before a cut that has not shown yet whether it helped.
    cut: Option<(u64, u64)>,
    /// The rate that was too much last time.
    limit: Option<u64>,
    /// Loss in percent that sending more slowly does not mend.
    random: u64,
}

impl Rate {
    pub(super) fn new(now: Instant, ceiling: Option<u64>) -> Self {
        Self {
            ceiling: ceiling.unwrap_or(u64::MAX).max(1),
            rate: ceiling.unwrap_or(START).max(1),
            interval: now,
            sent: 0,
            reports: [0; 101],
            hold: 0,
            cut: None,
            limit: None,
            random: 0,
        }
    }

    /// Bits per second on the wire.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// So many wire bytes were sent.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// A client's report about this stream, and the round trip that it shows.
    pub(super) fn report(&mut self, head: &RequestHead, _trip: Option<Duration>) {
        let RequestHead { received, lost, .. } = *head;
        let all = u64::from(received) + u64::from(lost);
        if all < LEAST_DATAGRAMS.into() {
            return;
        }
        let percent = usize::try_from(u64::from(lost) * 100 / all).unwrap_or(100);
        self.reports[percent] = self.reports[percent].saturating_add(1);
    }

    /// Time has passed: at the end of an interval the rate changes.
    pub(super) fn update(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.interval);
        if elapsed < INTERVAL {
            return;
        }
        let carried = u128::from(self.rate) * elapsed.as_nanos() / 8_000_000_000;
        let used = u128::from(self.sent) * 10 >= carried * 8;
        let loss = self.loss();
        if self.hold > 0 {
            self.hold -= 1;
        } else if let Some(loss) = loss {
            self.judge(loss, used);
        } else if used {
            self.grow();
        }
        self.interval = now;
        self.sent = 0;
        self.reports = [0; 101];
    }

    fn judge(&mut self, loss: u64, used: bool) {
        if let Some((before, then)) = self.cut.take()
            && loss * 4 > then * 3
            && loss <= MOST_RANDOM
        {
            (self.rate, self.random, self.limit) = (before, loss, None);
            self.hold = HOLD;
        } else if loss > self.random + TOLERATED {
            (self.cut, self.limit) = (Some((self.rate, loss)), Some(self.rate));
            let delivered = self.rate / 100 * (100 - loss);
            self.rate = delivered.max(FLOOR).min(self.rate);
            self.hold = HOLD;
        } else {
            self.random = (self.random * 7 + self.random.min(loss)) / 8;
            if used {
                self.grow();
            }
        }
    }

    /// By half while nothing was ever too much, quickly back to the neighbourhood of what was, carefully through it.
    fn grow(&mut self) {
        let percent = match self.limit {
            None => 150,
            Some(limit) if self.rate < limit / 10 * 9 => 125,
            Some(_) => 102,
        };
        let more = (self.rate / 100).saturating_mul(percent);
        self.rate = more.max(self.rate.saturating_add(1)).min(self.ceiling);
        self.limit = self
            .limit
            .filter(|limit| self.rate < (limit / 10).saturating_mul(12));
    }

    /// The loss in percent that 90 % of this interval's reports stay under; `None` without reports.
    fn loss(&self) -> Option<u64> {
        let total: u64 = self.reports.iter().map(|&count| u64::from(count)).sum();
        let mut worse = 0;
        (0..101)
            .rev()
            .zip(self.reports.iter().rev())
            .find_map(|(percent, &count)| {
                worse += u64::from(count);
                (worse * 10 > total).then_some(percent)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose whole rate is always used, and clients behind one link with a capacity and a random loss.
    struct Path {
        now: Instant,
        rate: Rate,
    }

    impl Path {
        fn new(ceiling: Option<u64>) -> Self {
            let now = Instant::now();
            Self {
                now,
                rate: Rate::new(now, ceiling),
            }
        }

        /// `random` is in percent.
        fn run(&mut self, intervals: u32, capacity: u64, random: u64) -> u64 {
            for _ in 0..intervals {
                let rate = u128::from(self.rate.rate());
                let through =
                    u128::from(capacity).min(rate) * 100 * u128::from(100 - random) / rate;
                let received = u32::try_from(through).unwrap();
                self.reports(&[(received, 10_000 - received)]);
            }
            self.rate.rate()
        }

        fn reports(&mut self, reports: &[(u32, u32)]) {
            self.now += INTERVAL;
            self.rate.sent(self.rate.rate() / 80);
            for &(received, lost) in reports {
                let head = RequestHead {
                    received,
                    lost,
                    ..RequestHead::default()
                };
                self.rate.report(&head, None);
            }
            self.rate.update(self.now);
        }
    }

    #[test]
    fn random_loss_of_five_percent_does_not_lower_it() {
        assert_eq!(
            Path::new(Some(1_000_000_000)).run(50, u64::MAX, 5),
            1_000_000_000
        );
    }

    #[test]
    fn heavy_random_loss_lowers_it_once() {
        let mut path = Path::new(Some(1_000_000_000));
        assert_eq!(path.run(1, u64::MAX, 25), 750_000_000);
        assert_eq!(path.run(10, u64::MAX, 25), 1_000_000_000);
        assert_eq!(path.run(100, u64::MAX, 25), 1_000_000_000);
        path.run(100, u64::MAX, 0);
        assert_eq!(path.run(1, u64::MAX, 25), 750_000_000, "it was forgotten");
    }

    #[test]
    fn a_full_link_brings_it_to_what_the_link_carries() {
        let mut path = Path::new(None);
        for capacity in [1_000_000_000, 100_000_000, 400_000_000] {
            path.run(300, capacity, 2);
            for _ in 0..100 {
                let rate = path.run(1, capacity, 2);
                assert!(
                    rate > capacity / 10 * 8 && rate < capacity / 10 * 13,
                    "{rate} of {capacity}"
                );
            }
        }
    }

    #[test]
    fn reports_of_total_loss_do_not_bring_it_below_the_floor() {
        let mut path = Path::new(Some(1_000_000_000));
        (0..200).for_each(|_| path.reports(&[(0, 1_000_000)]));
        assert_eq!(path.rate.rate(), FLOOR);
        assert_eq!(path.run(200, u64::MAX, 0), 1_000_000_000, "and it recovers");
    }

    #[test]
    fn the_worst_tenth_does_not_slow_the_others() {
        let mut path = Path::new(Some(100_000_000));
        let mut reports = [(1000, 0); 20];
        reports[3] = (100, 900);
        reports[7] = (100, 900);
        (0..20).for_each(|_| path.reports(&reports));
        assert_eq!(path.rate.rate(), 100_000_000);
        reports[9] = (100, 900);
        path.reports(&reports);
        assert_eq!(path.rate.rate(), 10_000_000);
    }

    #[test]
    fn without_a_ceiling_it_grows_only_while_it_is_used() {
        let mut path = Path::new(None);
        path.now += INTERVAL;
        path.rate.update(path.now);
        assert_eq!(path.rate.rate(), START);
        (0..5).for_each(|_| path.reports(&[]));
        assert!(path.rate.rate() > 1_000_000_000);
        (0..500).for_each(|_| path.reports(&[]));
        assert!(path.rate.rate() > START, "no overflow on the way up");
    }
}
