//! UDP multicast sockets: thin, and with no knowledge of the protocol.
//!
//! [`ServerSocket`] sends to a group and receives requests by unicast; [`ClientSocket`] receives the group and sends
//! requests. Batches of equal-sized datagrams leave in one system call (generic segmentation offload, GSO) and arrive
//! in one (GRO, `recvmmsg`), with one call per datagram where the system refuses the offload.
//! [`Interface`] and [`Group`] turn what an operator types into addresses, or say what is wrong with it.

mod client;
mod counters;
mod direct;
mod error;
mod group;
mod interface;
mod membership;
mod querier;
mod receive;
mod server;
mod socket;
mod throttle;
mod timer;

pub use client::{ClientOptions, ClientSocket};
pub use counters::DropCounter;
pub use direct::DirectSocket;
pub use error::Error;
pub use group::{DEFAULT_PORT, Group};
pub use interface::Interface;
pub use membership::LinkChange;
pub use querier::{QUERY_INTERVAL, QuerierWatch};
pub use receive::{Datagram, RecvBatch};
pub use server::{ServerOptions, ServerSocket};
pub use socket::{Buffer, Offload};
pub use throttle::Throttle;
pub use timer::Timer;

/// Largest number of bytes that one batch may hold: the largest payload of a UDP datagram over IPv4, and less than that over IPv6.
pub const BATCH_BYTES_MAX: usize = 65_507;

/// Largest number of datagrams of one batch: the kernel's `UDP_MAX_SEGMENTS` in its oldest, smallest form.
pub const BATCH_SEGMENTS_MAX: usize = 64;
