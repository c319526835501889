//! The multicast protocol as state machines without I/O: no socket, clock, thread, global randomness or log.
//!
//! [`Server`] and [`Client`] are given datagrams, time and one seed, and say what to do. `docs/PROTOCOL.md` is the
//! normative text; the wire format is in [`wire`].
//!
//! # The contract
//!
//! 1. Feed one input (`handle_*`, or nothing when only time has passed) with the time at which it happened.
//! 2. Call `poll` with the time, and do what it returns, until it returns `Wait`.
//! 3. Sleep until the instant in `Wait` (for ever if there is none) or until there is input, whichever is first.
//! 4. Go to 1.
//!
//! Several inputs may be fed before polling, for instance all datagrams of one `recvmmsg`. `poll` is cheap when there
//! is nothing to do. Time must not go backwards; late calls are harmless.
//!
//! ```
//! # use std::{net::SocketAddr, sync::Arc, time::Instant};
//! # use frisbee_proto::*;
//! # struct Trust(ObjectInfo);
//! # impl Admission for Trust {
//! #     fn admit(&mut self, head: &[u8; 1024]) -> Option<Admitted> {
//! #         Some(Admitted { uuid: [7; 16], object_blocks: self.0.blocks, object_root: self.0.root })
//! #     }
//! #     fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Arc<[ObjectInfo]>> { Some([self.0].into()) }
//! # }
//! # let object = Arc::new(Loaded::new(vec![1; 40 * 1024]).unwrap());
//! # let objects = vec![object.info(); 2];
//! # let image = Image { uuid: [7; 16], head: Box::new([0; 1024]), objects };
//! # let mut now = Instant::now();
//! let mut server = Server::new(now, ServerConfig { seed: 1, ..ServerConfig::default() }, image)?;
//! let mut client = Client::new(now, ClientConfig { seed: 2, ..ClientConfig::default() }, Trust(object.info()));
//! let (from, mut buffer) = (SocketAddr::from(([10, 0, 0, 1], 7001)), Vec::new());
//! 'run: loop {
//!     let server_wakes = loop {
//!         match server.poll(now, &mut buffer) {
//!             ServerOutput::Transmit(transmit) => {
//!                 for datagram in buffer.chunks(transmit.segment) {
//!                     client.handle_datagram(now, from, datagram); // as if it came from the group
//!                 }
//!             }
//!             ServerOutput::Load(number) => server.handle_loaded(now, number, Arc::clone(&object)),
//!             ServerOutput::Encode { object, loaded, blocks } => {
//!                 let parity = Parity::of(&loaded, blocks).map(Arc::new);
//!                 server.handle_parity(now, object, parity);
//!             }
//!             ServerOutput::Wait(until) => break until,
//!         }
//!     };
//!     let client_wakes = loop {
//!         match client.poll(now) {
//!             ClientOutput::Send { to, datagram } => {
//!                 assert_eq!(to, from);
//!                 server.handle_datagram(now, &datagram);
//!             }
//!             ClientOutput::Object { object: number, bytes } => {
//!                 assert_eq!((number, bytes.len()), (1, 40 * 1024));
//!                 client.release(now, number); // once it is written
//!             }
//!             ClientOutput::Event(Event::Finished) => break 'run,
//!             ClientOutput::Event(event) => println!("{event:?}"),
//!             ClientOutput::Wait(until) => break until,
//!         }
//!     };
//!     now = server_wakes.into_iter().chain(client_wakes).min().unwrap(); // sleep, or receive
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! # Objects
//!
//! What travels are *objects*: object 0 is the image header followed by the manifest body, object `i + 1` is chunk
//! `i` of the image. Each is a whole number of 1 KiB blocks with a BLAKE3 root ([`ObjectInfo`]).

mod bits;
mod client;
mod layout;
pub mod probe;
mod server;
pub mod wire;

use std::net::IpAddr;

use chunkfmt::tree::Cv;

pub use client::{
    Admission, Admitted, Client, ClientConfig, ClientOutput, ClientStats, Content, Event, Kept,
    Unicast, Weightless,
};
pub use server::{
    Image, LaneStats, Loaded, Parity, Priority, Server, ServerConfig, ServerOutput, ServerStats,
    Service, ServiceConfig, ServiceOutput, Site, Transmit,
};

/// Most blocks of one object: the 24 bits that name a proof node on the wire reach 2^24 groups of 16 blocks.
pub const MAX_OBJECT_BLOCKS: u32 = 1 << 28;

/// Bytes that a datagram of UDP over IPv4 over Ethernet costs beside its payload.
///
/// UDP 8, IPv4 20, Ethernet header 14, frame check 4, preamble 8, inter-frame gap 12 (IEEE 802.3, clause 4.2). Rates
/// count them, so a rate of 1 Gbit/s is a full gigabit link.
pub const FRAMING: usize = 66;

/// Bytes that the header of IPv6 has more than that of IPv4.
const IPV6_MORE: usize = 20;

/// As [`FRAMING`], for datagrams to this address.
pub fn framing(to: IpAddr) -> usize {
    match to {
        IpAddr::V4(_) => FRAMING,
        IpAddr::V6(_) => FRAMING + IPV6_MORE,
    }
}

/// Size and root of one object, from the signed manifest (for object 0 from its signed head).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Blocks of 1 KiB; 1 to [`MAX_OBJECT_BLOCKS`].
    pub blocks: u32,
    /// BLAKE3 hash of all the object's bytes.
    pub root: Cv,
    /// What proves its parity blocks, if it has any.
    pub parity: Option<ParityInfo>,
}

/// Number and root of an object's parity blocks, from the signed manifest (`docs/FORMAT.md`, section 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityInfo {
    /// Parity blocks that there are; 1 to [`chunkfmt::parity::PARITY_BLOCKS_MAX`].
    pub blocks: u16,
    /// BLAKE3 hash of all of them, one after the other.
    pub root: Cv,
}

impl ObjectInfo {
    /// The object of a chunk of which a manifest says this.
    pub fn of_chunk(entry: &chunkfmt::ChunkEntry) -> Self {
        let blocks = u16::try_from(entry.parity_blocks).ok();
        let root = entry.parity_root;
        Self {
            blocks: entry.blocks,
            root: entry.root,
            parity: blocks
                .filter(|&blocks| blocks > 0)
                .map(|blocks| ParityInfo { blocks, root }),
        }
    }
}

/// Why a machine could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An object has no blocks, or more than the protocol can name.
    #[error("object {object} has {blocks} blocks: an object has 1 to {MAX_OBJECT_BLOCKS}")]
    ObjectSize {
        /// The object.
        object: u32,
        /// Its blocks.
        blocks: u32,
    },
    /// There is no object 0, or more objects than a u32 counts.
    #[error("{0} objects: an image has 1 (its manifest) to 2^32 - 1")]
    ObjectCount(usize),
}

fn check_sizes(first: u32, objects: &[ObjectInfo]) -> Result<(), Error> {
    match (first..)
        .zip(objects)
        .find(|(_, info)| info.blocks == 0 || info.blocks > MAX_OBJECT_BLOCKS)
    {
        Some((object, info)) => Err(Error::ObjectSize {
            object,
            blocks: info.blocks,
        }),
        None => Ok(()),
    }
}
