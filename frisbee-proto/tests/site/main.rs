//! Several images in one process, lanes for single clients, and standbys, on an emulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
#[path = "../scenarios/golden.rs"]
mod golden;
mod hall;
mod lanes;
mod shares;
mod standby;
