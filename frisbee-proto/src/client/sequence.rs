//! How far one stream has got, and how much of it was lost.
//!
//! One datagram with a wild number is not believed: the number has to be confirmed by a second one close behind it
//! (the rule of RFC 3550, appendix A.1). So a forger, or a late datagram of before, does not move the state.

/// A step forward that is believed at once.
const MAX_STEP: u32 = 3000;
/// Wild numbers remembered: a forger must send as many between two true ones to keep these from being believed.
const MAX_WILD: usize = 16;
/// How close behind the first one the confirmation of a wild number must be.
const CONFIRMED_WITHIN: u32 = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    /// The next number expected: one more than the highest that was believed.
    next: u32,
    /// The last wild numbers, which wait for their confirmation: one more than each.
    wild: [Option<u32>; MAX_WILD],
    /// Where the next one goes.
    oldest: usize,
    /// Expected and received since the last report.
    expected: u32,
    received: u32,
}

impl Sequence {
    /// A stream of which the first datagram has this number.
    pub(super) fn new(first: u32) -> Self {
        Self {
            next: first.wrapping_add(1),
            wild: [None; MAX_WILD],
            oldest: 0,
            expected: 1,
            received: 1,
        }
    }

    /// One more than the highest number believed.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Takes the number of a datagram. True if the stream has moved forward with it.
    pub(super) fn take(&mut self, number: u32) -> bool {
        let step = number.wrapping_sub(self.next);
        if step < MAX_STEP {
            self.advance(number, step.saturating_add(1));
            return true;
        }
        let behind = self.next.wrapping_sub(number);
        if behind <= MAX_STEP {
            // Late or twice. That it was counted as lost is corrected as far as this report goes.
            self.received = self.received.saturating_add(1);
            return false;
        }
        if self
            .wild
            .iter()
            .flatten()
            .any(|&wild| number.wrapping_sub(wild) < CONFIRMED_WITHIN)
        {
            // Forward it is a gap, backward a restart whose losses nobody knows.
            let lost = if step < 1 << 31 {
                step.saturating_add(1)
            } else {
                1
            };
            self.advance(number, lost);
            return true;
        }
        self.wild[self.oldest] = Some(number.wrapping_add(1));
        self.oldest = (self.oldest + 1) % MAX_WILD;
        false
    }

    /// Datagrams expected since the last report.
    pub(super) fn unreported(&self) -> u32 {
        self.expected
    }

    /// Datagrams received and lost since the last call.
    pub(super) fn report(&mut self) -> (u32, u32) {
        let report = (self.received, self.expected.saturating_sub(self.received));
        (self.expected, self.received) = (0, 0);
        report
    }

    fn advance(&mut self, number: u32, expected: u32) {
        self.next = number.wrapping_add(1);
        self.wild = [None; MAX_WILD];
        self.expected = self.expected.saturating_add(expected);
        self.received = self.received.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_losses_across_the_wrap() {
        let mut sequence = Sequence::new(u32::MAX - 2);
        for number in [u32::MAX - 1, 1, 2, 5] {
            assert!(sequence.take(number));
        }
        assert_eq!(sequence.next(), 6);
        assert_eq!(sequence.report(), (5, 4));
        assert!(!sequence.take(4), "late");
        assert_eq!(sequence.report(), (1, 0));
    }

    #[test]
    fn other_wild_numbers_do_not_keep_a_true_one_from_being_believed() {
        let mut sequence = Sequence::new(100);
        for step in 0..15 {
            assert!(!sequence.take(50_000));
            for forged in 0..step {
                assert!(!sequence.take(1_000_000 + forged * 1000 + step * 100_000));
            }
            assert!(sequence.take(50_001));
            assert!(!sequence.take(100) && sequence.take(101), "and back");
        }
    }

    #[test]
    fn one_wild_number_is_not_believed_and_two_are() {
        let mut sequence = Sequence::new(100);
        for wild in [50_000, 2_000_000_000, 70_000, 4_000_000_000] {
            assert!(!sequence.take(wild));
            assert!(sequence.take(sequence.next()));
        }
        assert!(!sequence.take(50_000));
        assert!(sequence.take(50_003));
        assert_eq!(sequence.next(), 50_004);
        assert!(!sequence.take(7) && sequence.take(8), "a restart");
        assert_eq!(sequence.next(), 9);
    }
}
