//! The machines of frisbee-proto on an emulated network, without I/O and the same for the same seed.
//!
//! - A [`World`] is small and complete: real bytes travel, and what has to hold is checked after every event
//!   ([`Broken`] lists it). The protocol's scenarios are told in it; a [`Room`] is a random one.
//! - A [`Crowd`] is large and lean: up to a million clients that keep no bytes, to measure what repairs cost beside what
//!   they have to cost at the least ([`bound`]).

mod bottleneck;
pub mod bound;
mod clock;
mod crowd;
pub mod forger;
mod golden;
mod host;
mod invariants;
mod link;
mod loss;
mod node;
mod report;
mod room;
mod tcp;
mod world;

pub use bottleneck::Bottleneck;
pub use crowd::Crowd;
pub use golden::{Golden, Owner, usual_sizes};
pub use host::Host;
pub use invariants::{Broken, Violation};
pub use link::{Link, Port, Quality};
pub use loss::{Fate, Loss};
pub use node::{Node, Setup};
pub use report::Report;
pub use room::{Failure, Outcome, Room};
pub use world::World;
