//! The pacer: a token bucket in wire bytes, kept as the one instant at which it would be full again.
//!
//! (The "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371 annex A: no counter to refill, and
//! a changed rate needs no care.)

use std::time::{Duration, Instant};

use crate::wire::SEGMENT_SIZE;

/// Most that leaves at once: enough for a driver that sleeps whole milliseconds to keep any rate, and well within the
/// 512 KiB that small switches have for a port at 1 Gbit/s.
const BURST: Duration = Duration::from_millis(2);

/// At low rates, where queues hold few datagrams and a call costs little beside the time of one.
const BURST_SEGMENTS: u32 = 4;

#[derive(Debug)]
pub(super) struct Pacer {
    /// When everything sent so far is through at the rate.
    clear: Instant,
    /// Wire bytes of one full datagram.
    segment: u64,
}

/// Time on the wire of so many bytes at `rate` bits per second, rounded up.
pub(crate) fn wire_time(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(8_000_000_000).div_ceil(rate.max(1)))
}

/// Time on the wire of what leaves at once at most, where a full datagram has so many bytes.
pub(super) fn burst(segment: u64, rate: u64) -> Duration {
    BURST.max(wire_time(segment, rate) * BURST_SEGMENTS)
}

impl Pacer {
    /// `framing` bytes are counted for each datagram beside its payload.
    pub(super) fn new(now: Instant, framing: usize) -> Self {
        let segment = u64::try_from(SEGMENT_SIZE + framing).unwrap_or(u64::MAX);
        Self {
            clear: now,
            segment,
        }
    }

    fn burst(&self, rate: u64) -> Duration {
        burst(self.segment, rate)
    }

    /// Full datagrams that may leave now.
    pub(super) fn allowance(&self, now: Instant, rate: u64) -> u32 {
        let debt = self.clear.saturating_duration_since(now);
        let room = self.burst(rate).saturating_sub(debt);
        let segments = room.as_nanos() / wire_time(self.segment, rate).as_nanos().max(1);
        u32::try_from(segments).unwrap_or(u32::MAX)
    }

    /// Datagrams that are worth waking up for: half a burst, so that a late wake-up loses nothing.
    pub(super) fn worthwhile(&self, rate: u64, most: u32) -> u32 {
        let one = wire_time(self.segment, rate).as_nanos().max(1);
        let half = self.burst(rate).as_nanos() / 2 / one;
        u32::try_from(half)
            .unwrap_or(u32::MAX)
            .clamp(1, most.max(1))
    }

    /// When so many full datagrams may leave.
    pub(super) fn ready(&self, segments: u32, rate: u64) -> Instant {
        let need = wire_time(self.segment, rate) * segments;
        let lead = self.burst(rate).saturating_sub(need);
        self.clear.checked_sub(lead).unwrap_or(self.clear)
    }

    /// So many bytes on the wire leave. May go into debt: what follows then waits longer.
    pub(super) fn charge(&mut self, now: Instant, rate: u64, wire_bytes: u64) {
        self.clear = self.clear.max(now) + wire_time(wire_bytes, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FRAMING;

    #[test]
    fn over_any_second_no_more_than_the_rate_and_one_burst() {
        for rate in [
            1_000_000,
            5_000_000,
            200_000_000,
            1_000_000_000,
            40_000_000_000_u64,
        ] {
            let start = Instant::now();
            let (mut pacer, mut now, mut sent) = (Pacer::new(start, FRAMING), start, 0_u64);
            while now < start + Duration::from_secs(1) {
                let want = pacer.worthwhile(rate, 60);
                let may = pacer.allowance(now, rate);
                if may < want {
                    let ready = pacer.ready(want, rate);
                    assert!(ready > now, "a wait that does not wait");
                    now = ready;
                    continue;
                }
                let bytes = u64::from(may.min(60)) * pacer.segment;
                pacer.charge(now, rate, bytes);
                sent += bytes;
            }
            let bits = sent * 8;
            let burst = u64::try_from(pacer.burst(rate).as_nanos()).unwrap() * rate / 1_000_000_000;
            assert!(bits <= rate + burst + 8 * pacer.segment, "{bits} of {rate}");
            assert!(bits >= rate / 100 * 99, "{bits} of {rate}");
        }
    }

    #[test]
    fn debt_is_paid_back() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now, FRAMING);
        for _ in 0..1000 {
            pacer.charge(now, 8_000_000, 1000); // one millisecond each
        }
        assert_eq!(
            pacer.allowance(now + Duration::from_millis(900), 8_000_000),
            0
        );
        assert!(pacer.allowance(now + Duration::from_millis(999), 8_000_000) > 0);
    }
}
