//! How many clients there seem to be and how far away they are: what ANNOUNCEs tell them, so that they do not all ask
//! at once. Nothing is kept about any single one.
//!
//! Anybody can make up clients. More of them than there are make true clients wait a little longer (the logarithm of the
//! number counts) and show themselves less often; a false round trip counts if a tenth of all reports have such.

use std::time::{Duration, Instant};

use crate::wire::RequestHead;

/// How often the round trip is judged.
const INTERVAL: Duration = Duration::from_secs(1);
/// Round trip before any was measured: a room, and clients that are busy.
const FIRST: Duration = Duration::from_millis(2);
/// Bounds of what is announced.
const LEAST: Duration = Duration::from_millis(1);
const MOST: Duration = Duration::from_millis(500);
/// Clients are counted for so long at least: four times what the most silent one lets pass between two REQUESTs.
const WINDOW: Duration = Duration::from_secs(40);
/// So many clients do not wait longer than fewer do.
const CROWD: u32 = 500;

/// The group round trip (GRTT, RFC 5401 section 2.4) and the number of clients.
#[derive(Debug)]
pub(super) struct Room {
    interval: Instant,
    /// Round trips of this interval, by the power of two of their microseconds.
    trips: [u32; 32],
    grtt: Duration,
    window: Instant,
    now: Count,
    before: Count,
    /// How many clients were announced last.
    told: u32,
}

impl Room {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            interval: now,
            trips: [0; 32],
            grtt: FIRST,
            window: now,
            now: Count::default(),
            before: Count::default(),
            told: 0,
        }
    }

    /// A REQUEST came, with the round trip that it shows. True if there are twice as many clients now as they were told,
    /// and so many that it makes a difference to them.
    pub(super) fn report(
        &mut self,
        now: Instant,
        head: &RequestHead,
        trip: Option<Duration>,
    ) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.before = std::mem::take(&mut self.now);
            self.window = now;
        }
        let is_new = self.now.add(head.client);
        if let Some(trip) = trip {
            let micros = u32::try_from(trip.as_micros()).unwrap_or(u32::MAX).max(1);
            let count = &mut self.trips[micros.ilog2() as usize];
            *count = count.saturating_add(1);
        }
        if now.saturating_duration_since(self.interval) >= INTERVAL {
            self.judge();
            self.interval = now;
        }
        is_new && self.now.estimate() / 2 > self.told.max(CROWD)
    }

    /// The round trip that nine tenths of the clients stay under; falls slowly.
    pub(super) fn grtt(&self) -> Duration {
        self.grtt
    }

    /// About how many clients there were lately.
    pub(super) fn receivers(&self) -> u32 {
        self.now.estimate().max(self.before.estimate())
    }

    /// The same, for an ANNOUNCE.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.receivers();
        self.told
    }

    fn judge(&mut self) {
        let total: u64 = self.trips.iter().map(|&count| u64::from(count)).sum();
        let mut longer = 0;
        let ninth = self.trips.iter().enumerate().rev().find(|(_, count)| {
            longer += u64::from(**count);
            longer * 10 > total
        });
        if let Some((power, _)) = ninth.filter(|_| total > 0) {
            let trip = Duration::from_micros(2 << power);
            self.grtt = trip.max(self.grtt / 10 * 9).clamp(LEAST, MOST);
        }
        self.trips = [0; 32];
    }
}

/// Counts different random numbers in 256 bytes, within some 7 %: HyperLogLog (Flajolet, Fusy, Gandouet and Meunier,
/// 2007), with their correction for few.
#[derive(Debug)]
struct Count([u8; Self::REGISTERS]);

impl Default for Count {
    fn default() -> Self {
        Self([0; Self::REGISTERS])
    }
}

impl Count {
    const REGISTERS: usize = 256;

    /// True if the estimate is a higher one now.
    fn add(&mut self, number: u64) -> bool {
        let [register, ..] = number.to_le_bytes();
        let rank = (number >> 8).trailing_zeros().min(56) + 1;
        let rank = u8::try_from(rank).unwrap_or(u8::MAX);
        let highest = &mut self.0[usize::from(register)];
        let is_higher = rank > *highest;
        *highest = rank.max(*highest);
        is_higher
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; the conversion saturates"
    )]
    fn estimate(&self) -> u32 {
        let registers = 256.0;
        let sum: f64 = self.0.iter().map(|&rank| (-f64::from(rank)).exp2()).sum();
        let raw = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        let empty: f64 = self.0.iter().map(|&rank| f64::from(rank == 0)).sum();
        let estimate = if raw <= 2.5 * registers && empty > 0.0 {
            registers * (registers / empty).ln()
        } else {
            raw
        };
        estimate.round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(client: u64) -> RequestHead {
        RequestHead {
            client,
            ..RequestHead::default()
        }
    }

    #[test]
    fn clients_are_counted_whatever_they_say_and_forgotten() {
        for clients in [0_u32, 1, 2, 10, 50, 300, 700, 5000, 100_000, 1_000_000] {
            let now = Instant::now();
            let (mut room, mut random) = (Room::new(now), fastrand::Rng::with_seed(7));
            let numbers: Vec<u64> = (0..clients).map(|_| random.u64(..)).collect();
            for _ in 0..2 {
                for &client in &numbers {
                    room.report(now, &head(client), None);
                }
            }
            let found = f64::from(room.receivers());
            let range = f64::from(clients) * 0.8..=f64::from(clients) * 1.2;
            assert!(range.contains(&found), "{found} for {clients}");
            (1..3).for_each(|windows| _ = room.report(now + WINDOW * windows, &head(1), None));
            assert_eq!(room.receivers(), 1);
        }
    }

    #[test]
    fn each_doubling_of_a_crowd_is_worth_telling() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(3));
        let mut room = Room::new(now);
        let mut told = Vec::new();
        for _ in 0..100_000 {
            if room.report(now, &head(random.u64(..)), None) {
                told.push(room.tell());
            }
        }
        assert!((5..=8).contains(&told.len()), "{told:?}");
        assert!(
            told.is_sorted_by(|before, after| *after >= before * 2),
            "{told:?}"
        );
        let mut small = Room::new(now);
        assert!((0..800).all(|_| !small.report(now, &head(random.u64(..)), None)));
    }

    #[test]
    fn the_round_trip_follows_nine_tenths_at_once_and_falls_slowly() {
        let mut now = Instant::now();
        let mut room = Room::new(now);
        let mut second = |trips: &[u64]| {
            for &millis in trips {
                room.report(now, &head(1), Some(Duration::from_millis(millis)));
            }
            now += INTERVAL;
            room.report(now, &head(1), None);
            room.grtt().as_millis()
        };
        let mut trips = [20; 20];
        assert!((20..=40).contains(&second(&trips)));
        trips[0] = 2000;
        assert!((20..=40).contains(&second(&trips)));
        trips[1] = 2000;
        trips[2] = 2000;
        assert_eq!(second(&trips), MOST.as_millis());
        trips = [1; 20];
        assert!(second(&trips) >= 400);
        let after: Vec<u128> = (0..60).map(|_| second(&trips)).collect();
        assert!((1..=2).contains(after.last().unwrap()), "{after:?}");
        let before = second(&[]);
        assert_eq!(second(&[]), before);
    }
}
