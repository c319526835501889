//! When to ask: round-trip estimate and the constants of the client's timers.

use std::time::{Duration, Instant};

/// A REQUEST about losses waits so long, at random: several objects share it, and late datagrams arrive meanwhile.
pub(super) const REPAIR_WAIT: std::ops::Range<u64> = 5_000..10_000;
/// A REQUEST for more waits at most so long, at random, while there is much under way; others may ask for the same.
pub(super) const REFILL_WAIT: Duration = Duration::from_millis(250);
/// And at least up to so long: many clients start at the same moment.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Least time between two REQUESTs, whatever a forger makes of us.
pub(super) const REQUEST_GAP: Duration = Duration::from_millis(5);
/// How often what is outstanding is looked through, at most and at least.
pub(super) const TICK: Duration = Duration::from_millis(25);
pub(super) const SLOW_TICK: Duration = Duration::from_millis(250);
/// A REQUEST without items, at random after the first to twice as long: servers show who is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time between two REQUESTs while datagrams come: as often as the server changes the rate when it looks for it.
const REPORT: Duration = Duration::from_millis(20);
/// All clients together send one in this time at most.
const REPORT_ALL: Duration = Duration::from_millis(1);
/// And at most about a hundredth of what the server sends: a REQUEST without items has some 150 bytes on the wire.
const REPORT_BITS: u64 = 150 * 8 * 100;
/// Clients that there are as long as the server does not know.
const REPORT_CLIENTS: u32 = 16;
/// Datagrams that are worth a report.
pub(super) const REPORT_DATAGRAMS: u32 = 16;
/// An idle server can have heard of what was asked for so long ago.
pub(super) const CROSSING: Duration = Duration::from_millis(10);
/// Promises are believed while something useful came within so long of asking.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// After so long without anything useful another server is asked, if this one never delivered anything, if another
/// one does, or if another one is new.
pub(super) const STALLED: Duration = Duration::from_millis(200);
/// And after so long in any case.
pub(super) const DEAD: Duration = Duration::from_secs(1);
/// Another image may be chosen when nothing of the manifest was proven for so long.
pub(super) const STUCK: Duration = Duration::from_secs(2);

const MIN_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_TIMEOUT: Duration = Duration::from_secs(1);

/// The time from an ask to its first answer, smoothed as in RFC 6298, section 2.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl RoundTrip {
    /// A measurement, of an ask that was not repeated.
    pub(super) fn sample(&mut self, time: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(time), time / 2);
            return;
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(time)) / 4;
        self.smoothed = Some((smoothed * 7 + time) / 8);
    }

    /// How long to wait for an answer after so many asks in vain.
    pub(super) fn timeout(&self, tries: u32) -> Duration {
        let once = self
            .smoothed
            .map_or(MIN_TIMEOUT, |smoothed| smoothed + self.variation * 4);
        (once.max(MIN_TIMEOUT) * (1 << tries.saturating_sub(1).min(5))).min(MAX_TIMEOUT)
    }
}

/// Time between two REQUESTs of one of so many clients while datagrams come at this rate, in bits per second, on average
/// (RFC 3550, section 6.2, has the same rule for the receivers of a session).
pub(super) fn report_interval(receivers: u32, rate: u64) -> Duration {
    let receivers = if receivers == 0 {
        REPORT_CLIENTS
    } else {
        receivers
    };
    let share = Duration::from_micros(REPORT_BITS * 1_000_000 / rate.max(REPORT_BITS));
    let each = share.max(REPORT_ALL).saturating_mul(receivers);
    each.clamp(REPORT, HEARTBEAT)
}

/// A random time in a range of microseconds from now.
pub(super) fn soon(
    now: Instant,
    micros: std::ops::Range<u64>,
    random: &mut fastrand::Rng,
) -> Instant {
    now + Duration::from_micros(random.u64(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clients_report_seldom() {
        let millis = |receivers, rate| report_interval(receivers, rate).as_millis();
        assert_eq!(millis(1, 8_000_000), 20);
        assert_eq!(millis(48, 10_000_000), 576);
        assert_eq!(millis(48, 100_000_000), 57);
        assert_eq!(millis(1000, 10_000_000_000), 1000);
        assert_eq!(millis(u32::MAX, 0), 5000);
    }

    #[test]
    fn timeouts_double_within_their_limits() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(0), MIN_TIMEOUT);
        assert_eq!(trip.timeout(1), MIN_TIMEOUT);
        assert_eq!(trip.timeout(2), MIN_TIMEOUT * 2);
        assert_eq!(trip.timeout(u32::MAX), MAX_TIMEOUT);
        for _ in 0..50 {
            trip.sample(Duration::from_millis(80));
        }
        assert!(
            (79..=85).contains(&trip.timeout(1).as_millis()),
            "{:?}",
            trip.timeout(1)
        );
    }
}
