//! What has to hold at every moment, whatever happens on the network.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use frisbee_proto::wire::{self, Message};
use frisbee_proto::{FRAMING, Transmit};

use crate::host::Host;
use crate::node::Node;

/// Which promise was broken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Bytes were delivered that are not the image's.
    #[error("client {node} was given object {object} with bytes that are not the image's")]
    False {
        /// The client.
        node: usize,
        /// What it was given.
        object: u32,
    },
    /// An object was delivered that was delivered before, or skipped, or that the image does not have.
    #[error("client {node} was given object {object}, which it does not lack")]
    NotLacking {
        /// The client.
        node: usize,
        /// What it was given.
        object: u32,
    },
    /// The manifest of the image was refused: what was handed on had not been verified.
    #[error("client {0} refused the manifest")]
    Manifest(usize),
    /// A client said that it has finished, and lacks something; or it did something after that, or something out of
    /// order.
    #[error("client {node}: {what}")]
    Order {
        /// The client.
        node: usize,
        /// What it did.
        what: &'static str,
    },
    /// More buffers are in use than were lent.
    #[error("client {node} has {used} blocks in use and may have {most}")]
    Credit {
        /// The client.
        node: usize,
        /// In use.
        used: u32,
        /// What is allowed.
        most: u32,
    },
    /// More was sent than the ceiling allows.
    #[error("server {host} has sent {bits:.0} bits and may have sent {most:.0}")]
    Rate {
        /// The server.
        host: usize,
        /// Sent.
        bits: f64,
        /// What is allowed.
        most: f64,
    },
    /// A datagram that is none, or too long.
    #[error("{from} sent a datagram of {length} bytes that is none of the protocol's")]
    Datagram {
        /// Its sender.
        from: SocketAddr,
        /// Its length.
        length: usize,
    },
    /// A server asked for an object that the image does not have, or that is being loaded.
    #[error("server {host} asked for object {object}, which does not exist or is being loaded")]
    Load {
        /// The server.
        host: usize,
        /// What it asked for.
        object: u32,
    },
    /// A wait for a time that has passed: the driver would spin.
    #[error("{0} waits for a time that has passed")]
    Wait(String),
    /// Not all clients have finished in the time that any of them needs.
    #[error("no end: {0}")]
    NoEnd(String),
    /// Nothing is going to happen, and clients have not finished.
    #[error("nothing is ever going to happen")]
    Dead,
    /// A server to which nobody speaks sends more than ANNOUNCEs, or too many of these.
    #[error(
        "server {host} has sent {datagrams} datagrams, {announces} ANNOUNCEs, while nobody asked"
    )]
    NotSilent {
        /// The server.
        host: usize,
        /// Sent.
        datagrams: u64,
        /// ANNOUNCEs among them.
        announces: u64,
    },
}

/// A broken promise, and where to see it again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("seed {seed}, after {time:?}: {broken}")]
pub struct Violation {
    /// The world's seed.
    pub seed: u64,
    /// Time since the world's beginning.
    pub time: Duration,
    /// What happened.
    pub broken: Broken,
}

/// `Wait` waits.
pub(crate) fn waits(
    now: Instant,
    until: Option<Instant>,
    who: impl FnOnce() -> String,
) -> Result<(), Broken> {
    match until {
        Some(until) if until <= now => Err(Broken::Wait(who())),
        _ => Ok(()),
    }
}

/// A batch of a server is one, and each of its datagrams is the protocol's.
pub(crate) fn batch(from: SocketAddr, buffer: &[u8], transmit: Transmit) -> Result<(), Broken> {
    let whole = buffer.len() == transmit.segment * transmit.datagrams && buffer.len() <= 65_000;
    let mut datagrams = buffer.chunks(transmit.segment.max(1));
    let good = |datagram: &[u8]| match wire::decode(datagram) {
        Ok(datagram) => !matches!(datagram.message, Message::Request(..)),
        Err(_) => false,
    };
    match datagrams.find(|datagram| !good(datagram)) {
        None if whole => Ok(()),
        found => Err(Broken::Datagram {
            from,
            length: found.map_or(buffer.len(), <[u8]>::len),
        }),
    }
}

/// What a client sends is a REQUEST.
pub(crate) fn request(from: SocketAddr, datagram: &[u8]) -> Result<(), Broken> {
    match wire::decode(datagram) {
        Ok(wire::Datagram {
            message: Message::Request(..),
            ..
        }) => Ok(()),
        _ => Err(Broken::Datagram {
            from,
            length: datagram.len(),
        }),
    }
}

/// Never more than the rate since the start, but for one burst of 2 ms or 16 datagrams and one batch's rounding.
pub(crate) fn rate(place: usize, host: &Host, now: Instant) -> Result<(), Broken> {
    let Some(ceiling) = host.ceiling else {
        return Ok(());
    };
    let bits = host.server.stats().wire_bytes as f64 * 8.0;
    let burst = (ceiling as f64 * 0.002).max(17.0 * (wire::MAX_DATAGRAM + FRAMING) as f64 * 8.0);
    let most = ceiling as f64 * (now - host.started).as_secs_f64() * 1.0001 + burst;
    if bits <= most {
        return Ok(());
    }
    let host = place;
    Err(Broken::Rate { host, bits, most })
}

/// The credit is kept; one object always has room.
pub(crate) fn credit(place: usize, node: &Node) -> Result<(), Broken> {
    let most = node.setup.credit.max(node.golden.largest());
    let used = node.blocks_in_use();
    if used <= most {
        return Ok(());
    }
    let node = place;
    Err(Broken::Credit { node, used, most })
}

/// Who has finished has, or does not need, every chunk of the image.
pub(crate) fn complete(place: usize, node: &Node) -> Result<(), Broken> {
    let mut objects: Vec<u32> = node.got.keys().chain(&node.skipped).copied().collect();
    objects.sort_unstable();
    if objects.into_iter().eq(1..=node.golden.last()) {
        return Ok(());
    }
    Err(Broken::Order {
        node: place,
        what: "has finished and lacks an object",
    })
}
