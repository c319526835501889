//! What happens between servers, clients and forgers on one group, told in scenarios on an emulated network.
//!
//! Every scenario runs from several seeds; a failure names its seed, and the same seed runs the same again.

mod link;
mod loss;
mod world;
