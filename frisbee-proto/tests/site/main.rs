//! Several images in one process, lanes for single clients, and standbys, on an emulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod hall;
mod lanes;
mod shares;
mod standby;
