//! When to ask: round-trip estimate, waits that grow with the room, and the constants of the client's timers.

use std::time::{Duration, Instant};

use crate::wire::Announce;

/// A REQUEST about losses waits at least so long: several objects share it, and late datagrams arrive meanwhile.
pub(super) const REPAIR_LEAST: Duration = Duration::from_millis(5);
/// And at most so much longer, at random, and some round trips: others may ask for the same.
pub(super) const REPAIR_WAIT: Duration = Duration::from_millis(5);
/// A REQUEST for more waits at most so long, at random, while there is much under way.
pub(super) const REFILL_WAIT: Duration = Duration::from_millis(250);
/// And at least up to so long: many clients start at the same moment.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Least time between two REQUESTs, whatever a forger makes of us.
pub(super) const REQUEST_GAP: Duration = Duration::from_millis(5);
/// How often what is outstanding is looked through, at most and at least.
pub(super) const TICK: Duration = Duration::from_millis(25);
pub(super) const SLOW_TICK: Duration = Duration::from_millis(250);
/// A REQUEST without items: the first one at random within so long, then at random after the first to twice as long.
/// Servers show who is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// All clients together send at most about so many of them in a second.
const HEARTBEATS_PER_SECOND: u32 = 500;
/// Time between two REQUESTs while datagrams come: as often as the server changes the rate when it looks for it.
const REPORT: Duration = Duration::from_millis(20);
/// All clients together send one in this time at most.
const REPORT_ALL: Duration = Duration::from_millis(1);
/// And at most about a twentieth of what the server sends: a REQUEST without items has some 150 bytes on the wire.
const REPORT_BITS: u64 = 150 * 8 * 20;
/// Each is to report so often at least, so that some of many do.
const REPORT_MOST: Duration = Duration::from_millis(200);
/// But so many do in any case.
const REPORTERS_LEAST: u32 = 16;
/// Datagrams that are worth a report.
pub(super) const REPORT_DATAGRAMS: u32 = 16;
/// Of so many clients all say that they are done, of more about so many: they often are at the same moment.
const ENDS: u32 = 1000;
/// Round trips that a wait is longer by: an answer to the first who asks reaches the others while most still wait.
const ROUND_TRIPS: u32 = 4;
/// In a crowd each of them is longer by so much: an ANNOUNCE that tells of an answer comes so long after the one before.
const ANSWER: Duration = Duration::from_millis(10);
/// Longest round trip that is believed for this.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
/// Clients that there are taken to be at least: at the beginning a server knows of none.
const LEAST_RECEIVERS: u32 = 1000;
/// The same to a server that sends to this client alone, and stops when it hears nothing.
const LANE_HEARTBEAT: Duration = Duration::from_secs(1);
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

/// Time between two REQUESTs of a client with this number while datagrams come, on average (RFC 3550, section 6.2, has
/// the same rule for the receivers of a session). `None` for most of very many clients: the numbers are random, and those
/// with low ones tell what the others would.
pub(super) fn report_interval(client: u64, receivers: u32, rate: u64) -> Option<Duration> {
    let micros = (REPORT_BITS * 1_000_000).div_ceil(rate.max(REPORT_BITS));
    let each = Duration::from_micros(micros).max(REPORT_ALL);
    let reporters = REPORT_MOST.as_micros() / each.as_micros();
    let reporters = u32::try_from(reporters).map_or(REPORTERS_LEAST, |it| it.max(REPORTERS_LEAST));
    let receivers = match receivers {
        0 => REPORTERS_LEAST,
        known => known,
    };
    let place = (u128::from(client) * u128::from(receivers)) >> 64;
    (place < u128::from(reporters)).then(|| (each * receivers.min(reporters)).max(REPORT))
}

/// A random time up to `most` from now.
pub(super) fn soon(now: Instant, most: Duration, random: &mut fastrand::Rng) -> Instant {
    now + most.mul_f64(random.f64())
}

/// A random time up to `most` and some round trips, late for nearly all of many clients and early for a few of them,
/// however many there are: RFC 5401, section 4.2 (truncated exponential).
pub(super) fn backoff(most: Duration, announce: &Announce, random: &mut fastrand::Rng) -> Duration {
    let trip = Duration::from_micros(announce.grtt.into()).min(ROUND_TRIP_MAX);
    let answer = match announce.receivers {
        0..=LEAST_RECEIVERS => trip,
        _ => trip + ANSWER,
    };
    let lambda = f64::from(announce.receivers.max(LEAST_RECEIVERS)).ln() + 1.0;
    let part = (random.f64() * lambda.exp_m1()).ln_1p() / lambda;
    (most + answer * ROUND_TRIPS).mul_f64(part.clamp(0.0, 1.0))
}

/// Least time between two REQUESTs without items.
pub(super) fn heartbeat(announce: &Announce) -> Duration {
    if announce.lane {
        return LANE_HEARTBEAT;
    }
    HEARTBEAT.max(Duration::from_secs(
        (announce.receivers / HEARTBEATS_PER_SECOND).into(),
    ))
}

/// Whether a client says that it is done.
pub(super) fn tells_end(announce: &Announce, random: &mut fastrand::Rng) -> bool {
    random.u32(..announce.receivers.max(ENDS)) < ENDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(receivers: u32) -> Announce {
        Announce {
            rate: 1_000_000_000,
            cursor: 0,
            queued: 0,
            idle: true,
            lane: false,
            promise: [0; 64],
            request_address: None,
            time: 0,
            grtt: 2000,
            receivers,
            repairs: Default::default(),
        }
    }

    #[test]
    fn of_very_many_about_a_thousand_say_that_they_are_done() {
        let mut random = fastrand::Rng::with_seed(1);
        for (receivers, least, most) in [
            (0, 0, 0),
            (700, 700, 700),
            (1000, 1000, 1000),
            (50_000, 900, 1100),
        ] {
            let ends = (0..receivers)
                .filter(|_| tells_end(&room(receivers), &mut random))
                .count();
            assert!((least..=most).contains(&ends), "{ends} of {receivers}");
        }
    }

    #[test]
    fn however_many_there_are_few_ask_before_the_others_hear_of_it() {
        let mut random = fastrand::Rng::with_seed(1);
        for (receivers, answer) in [(1000, 2), (10_000, 12), (1_000_000, 12)] {
            let wait = Duration::from_millis(5);
            let answer = Duration::from_millis(answer);
            let mut waits: Vec<_> = (0..receivers)
                .map(|_| backoff(wait, &room(receivers), &mut random))
                .collect();
            waits.sort_unstable();
            let heard = waits[0] + answer;
            let early = waits.iter().take_while(|&&wait| wait < heard).count();
            assert!(early <= 100, "{early} of {receivers}");
        }
    }

    #[test]
    fn many_clients_report_seldom_or_not_at_all() {
        let millis = |client, receivers, rate| {
            report_interval(client, receivers, rate).map(|interval| interval.as_millis())
        };
        assert_eq!(millis(7, 0, 8_000_000), Some(48));
        assert_eq!(millis(7, 1, 8_000_000), Some(20));
        assert_eq!(millis(u64::MAX, 48, 10_000_000), Some(115));
        assert_eq!(millis(u64::MAX, 48, 100_000_000), Some(48));
        assert_eq!(millis(u64::MAX, 200, 10_000_000_000), Some(200));
        assert_eq!(millis(u64::MAX, 201, 10_000_000_000), None);
        assert_eq!(millis(u64::MAX, 17, 0), None);
        let mut random = fastrand::Rng::with_seed(1);
        for receivers in [1000, 100_000] {
            let reports = (0..receivers).filter_map(|_| millis(random.u64(..), receivers, 1 << 40));
            let reports: Vec<u128> = reports.collect();
            assert!((170..230).contains(&reports.len()), "{}", reports.len());
            assert!(reports.iter().all(|&interval| interval == 200));
        }
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
