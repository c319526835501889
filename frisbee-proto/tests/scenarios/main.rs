//! What happens between servers, clients and forgers on one group, told in scenarios on an emulated network.
//!
//! Every scenario runs from several seeds; a failure names its seed, and the same seed runs the same again.

mod credit;
mod forgery;
mod link;
mod loss;
mod servers;
mod shapes;
mod starts;
mod world;
