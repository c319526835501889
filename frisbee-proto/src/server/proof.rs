//! Proofs of address: who wants datagrams of its own has to repeat a number that was sent to where it says it is.
//!
//! The number is a keyed hash of the address, so nothing is kept about who has been given one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::pacing::wire_time;
use crate::FRAMING;
use crate::wire::CHALLENGE_SIZE;

/// A token is good until the end of the window after the one in which it was made.
const WINDOW: Duration = Duration::from_secs(60);

/// CHALLENGEs take at most one part in this many of the rate.
const SHARE: u64 = 20;

/// And leave in bursts of at most so long.
const BURST: Duration = Duration::from_millis(20);

/// Makes and checks tokens, and bounds how many CHALLENGEs leave.
#[derive(Debug)]
pub(super) struct Proof {
    secret: [u8; 32],
    started: Instant,
    /// When the share of all CHALLENGEs sent so far is through.
    clear: Instant,
}

impl Proof {
    pub(super) fn new(now: Instant, secret: [u8; 32]) -> Self {
        Self {
            secret,
            started: now,
            clear: now,
        }
    }

    /// The token for an address; never 0.
    pub(super) fn token(&self, now: Instant, address: SocketAddr) -> u64 {
        self.token_of(self.window(now), address)
    }

    /// Whether this token was made for this address lately.
    pub(super) fn accepts(&self, now: Instant, address: SocketAddr, token: u64) -> bool {
        let window = self.window(now);
        let windows = [Some(window), window.checked_sub(1)];
        let mut known = windows.into_iter().flatten();
        token != 0 && known.any(|window| self.token_of(window, address) == token)
    }

    /// Whether one more CHALLENGE may leave now, at this rate in bits per second. If so, it is counted.
    pub(super) fn may_challenge(&mut self, now: Instant, rate: u64) -> bool {
        let share = wire_time((CHALLENGE_SIZE + FRAMING) as u64 * SHARE, rate);
        if self.clear.saturating_duration_since(now) > BURST {
            return false;
        }
        self.clear = self.clear.max(now) + share;
        true
    }

    fn window(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / WINDOW.as_secs()
    }

    fn token_of(&self, window: u64, address: SocketAddr) -> u64 {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut mac = blake3::Hasher::new_keyed(&self.secret);
        mac.update(&ip.octets());
        mac.update(&address.port().to_le_bytes());
        mac.update(&window.to_le_bytes());
        let mut token = [0; 8];
        mac.finalize_xof().fill(&mut token);
        u64::from_le_bytes(token).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], port))
    }

    #[test]
    fn a_token_is_for_one_address_one_run_and_two_windows() {
        let now = Instant::now();
        let proof = Proof::new(now, [7; 32]);
        let token = proof.token(now, address(1, 5));
        assert!(proof.accepts(now, address(1, 5), token));
        assert!(!proof.accepts(now, address(1, 6), token), "another port");
        assert!(!proof.accepts(now, address(2, 5), token), "another host");
        assert!(!proof.accepts(now, address(1, 5), 0));
        assert!(!proof.accepts(now, address(1, 5), token ^ 1));
        assert!(!Proof::new(now, [8; 32]).accepts(now, address(1, 5), token));
        assert!(proof.accepts(now + WINDOW, address(1, 5), token));
        assert!(!proof.accepts(now + WINDOW * 2, address(1, 5), token));
    }

    #[test]
    fn challenges_keep_to_their_share_of_the_rate() {
        let mut now = Instant::now();
        let mut proof = Proof::new(now, [7; 32]);
        let (rate, mut sent) = (10_000_000, 0);
        for _ in 0..100_000 {
            now += Duration::from_micros(10);
            sent += u64::from(proof.may_challenge(now, rate));
        }
        let bits = sent * (CHALLENGE_SIZE + FRAMING) as u64 * 8;
        assert!(
            (rate / 20 * 9 / 10..=rate / 20 * 11 / 10).contains(&bits),
            "{bits} bits in a second"
        );
    }
}
