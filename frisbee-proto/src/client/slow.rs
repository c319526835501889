//! Whether the server being asked delivers next to nothing of what it announces.
//!
//! Just enough to look alive would otherwise keep a client from every other server.

use std::time::{Duration, Instant};

use crate::FRAMING;
use crate::wire::SEGMENT_SIZE;

/// How long a server is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// The part of the announced rate that it has to deliver.
const PART: u64 = 16;
/// Least rate that counts as announced, bits per second: no loss cuts a server's rate further.
const LEAST_RATE: u64 = 5_000_000;

/// What one server delivers in a window of time.
#[derive(Debug, Default)]
pub(super) struct Yield {
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Blocks that this server had proven then.
    proven: u64,
    /// The least that was asked for or promised, in blocks: one whose client can take no more is not slow.
    wanted: u32,
}

impl Yield {
    /// Takes the blocks still to come of what is under way, the announced rate in bits per second, and the blocks that
    /// the server has proven so far. True if it was slow for a whole window.
    pub(super) fn is_slow(&mut self, now: Instant, wanted: u32, rate: u64, proven: u64) -> bool {
        let window = self.window.get_or_insert(Window {
            since: now,
            proven,
            wanted,
        });
        window.wanted = window.wanted.min(wanted);
        let time = now.saturating_duration_since(window.since);
        if time < WINDOW {
            return false;
        }
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let bits_per_block = (SEGMENT_SIZE + FRAMING) as u64 * 8;
        let announced = rate.max(LEAST_RATE).saturating_mul(millis) / 1000 / bits_per_block;
        let least = (announced / PART).min(u64::from(window.wanted));
        let slow = proven.saturating_sub(window.proven) < least;
        self.window = None;
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a server at 100 Mbit/s is slow that proves so many blocks in the window.
    fn slow(wanted: u32, blocks: u64) -> bool {
        let (now, mut yields) = (Instant::now(), Yield::default());
        assert!(!yields.is_slow(now, wanted, 100_000_000, 7));
        yields.is_slow(now + WINDOW, wanted, 100_000_000, 7 + blocks)
    }

    #[test]
    fn a_sixteenth_of_the_rate_or_all_that_is_wanted_is_enough() {
        assert!(slow(10_000, 1000) && !slow(10_000, 1500));
        assert!(!slow(0, 0) && slow(100, 99) && !slow(100, 100));
    }
}
