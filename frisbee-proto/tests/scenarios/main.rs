//! What happens between servers, clients and forgers on one group, told in scenarios on an emulated network.
//!
//! Every scenario runs from several seeds; a failure names its seed, and the same seed runs the same again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod credit;
mod forgery;
mod golden;
mod liars;
mod link;
mod loss;
mod rate;
mod servers;
mod shapes;
mod starts;
mod tcp;
mod world;
