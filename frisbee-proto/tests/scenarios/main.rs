//! What happens between servers, clients and forgers on one group, told in scenarios on an emulated network.
//!
//! Every scenario runs from several seeds; a failure names its seed, and the same seed runs the same again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod credit;
mod forgery;
mod goodput;
mod liars;
mod loss;
mod rate;
mod servers;
mod shapes;
mod starts;

/// Every scenario's runs: a failure names the one it happened in.
///
/// `FRISBEE_SEEDS` sets their number, for a longer search.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("FRISBEE_SEEDS").map_or(2, |count| count.parse().unwrap())
}
