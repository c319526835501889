//! The probe: does multicast work between two machines, how fast, up to which size, and if not, why.
//!
//! [`ProbeServer`] sends to the group, [`ProbeClient`] listens and answers; both are machines without I/O as
//! [`crate::Server`] and [`crate::Client`] are. [`Report`] is what the client has found out, [`Report::verdict`] what
//! it means. `docs/PROTOCOL.md`, section 9, has the datagrams and timers.

mod client;
mod report;
mod server;
pub mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use client::{ProbeClient, ProbeClientConfig};
pub use report::{Circumstances, Report, SizeReport, StepReport, Verdict};
pub use server::{ProbeServer, ProbeServerConfig, Seen};

/// Where a datagram of a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// The group that is probed.
    Group,
    /// The group that every machine is in, on the same port.
    AllHosts,
    /// The broadcast address of the interface, if it has one, on the same port.
    Broadcast,
    /// One machine.
    Unicast(SocketAddr),
}

/// What the caller of `poll` has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutput {
    /// Send what is in the buffer, as datagrams of `segment` bytes.
    Send {
        /// Where to.
        to: ProbeTarget,
        /// Bytes of each datagram; the buffer holds a whole number of them.
        segment: usize,
    },
    /// The server's run, or the client's probe, has come to its end.
    Finished,
    /// Nothing to do until this instant or the next input.
    Wait(Instant),
}

/// UDP payload of the largest datagram that a transfer sends to the group: a PARITY with the longest path.
pub const NEEDED_SIZE: u16 = 1440;

/// UDP payloads that are tried, in ascending order: what fits into the smallest packet of IPv4 and of IPv6, DATA, the
/// largest PARITY, and the most that any datagram has.
const SIZES: [u16; 6] = [548, 1056, 1232, 1368, NEEDED_SIZE, 1452];

/// Datagrams of each size.
const COPIES: u32 = 8;

/// Rate at which sizes are tried, in bits per second.
const SIZES_RATE: u64 = 2_000_000;

/// The first rate that is tried, in bits per second; the next ones are about three times as high each, up to the ceiling.
const FIRST_RATE: u64 = 10_000_000;

/// How long each rate is tried.
const RATE_TIME: Duration = Duration::from_millis(500);

/// Silence between two steps: what is under way arrives, and clients report.
const PAUSE: Duration = Duration::from_millis(250);

/// Time between two replies of a client, and two beacons while there is one.
const INTERVAL: Duration = Duration::from_millis(200);

/// A client that has not replied for this long is gone.
const PRESENT: Duration = Duration::from_millis(1500);

/// The rates that are tried below a ceiling, and the ceiling.
fn ladder(ceiling: u64) -> Vec<u64> {
    let decades = std::iter::successors(Some(FIRST_RATE), |rate| rate.checked_mul(10));
    let rates = decades.flat_map(|rate| [rate, rate.saturating_mul(3)]);
    let mut rates: Vec<u64> = rates
        .take_while(|&rate| rate < ceiling - ceiling / 10)
        .collect();
    rates.push(ceiling);
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_to_the_ceiling() {
        let mega = |rates: &[u64]| {
            rates
                .iter()
                .map(|rate| rate * 1_000_000)
                .collect::<Vec<_>>()
        };
        assert_eq!(ladder(1_000_000_000), mega(&[10, 30, 100, 300, 1000]));
        assert_eq!(ladder(100_000_000), mega(&[10, 30, 100]));
        assert_eq!(ladder(11_000_000), mega(&[11]));
        assert_eq!(ladder(5_000_000), mega(&[5]));
    }
}
