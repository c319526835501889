//! The server: merges requests, serves them in one rotating order at the paced rate, and announces the image.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use chunkfmt::tree::Tree;

use crate::{Error, ObjectInfo};

/// What a server serves.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image's UUID; stands in every datagram.
    pub uuid: [u8; 16],
    /// The signed 1 KiB block that begins the manifest, as it stands in the file.
    pub head: Box<[u8; 1024]>,
    /// Object 0 (image header and manifest body), then every chunk.
    pub objects: Vec<ObjectInfo>,
}

/// How a server behaves. `ServerConfig::default()` is what a daemon without options uses, but for the seed.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Rate never exceeded, in bits per second on the wire ([`crate::FRAMING`] included). `None`: what clients keep up
    /// with, from 200 Mbit/s upwards.
    pub ceiling: Option<u64>,
    /// Most datagrams in one [`Transmit`], 1 to 60 (at most 65,000 bytes, what UDP segmentation offload takes).
    pub max_segments: usize,
    /// Bytes of loaded objects that the server keeps (object 0 beside them); at least the largest object is kept.
    pub cache_bytes: usize,
    /// Where clients send requests, if not to the source address of the server's datagrams.
    pub request_address: Option<SocketAddr>,
    /// Seed of everything random, from the system's random source: the number of this run's stream comes from it.
    pub seed: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            ceiling: None,
            max_segments: 60,
            cache_bytes: 32 << 20,
            request_address: None,
            seed: 0,
        }
    }
}

/// One object in memory, with the tree that its proofs are taken from.
#[derive(Debug)]
pub struct Loaded {
    bytes: Vec<u8>,
    tree: Tree,
}

impl Loaded {
    /// Hashes an object's bytes (on the caller's thread). `None` unless they are a whole, non-zero number of blocks.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let tree = Tree::build(&bytes)?;
        Some(Self { bytes, tree })
    }
}

/// What a REQUEST said about its client: for progress displays, of no consequence to the server, and not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Random number of the client's run.
    pub client: u64,
    /// The client has everything and will ask no more.
    pub done: bool,
    /// Datagrams of this server received since the client's last REQUEST.
    pub received: u32,
    /// Datagrams missing among them.
    pub lost: u32,
    /// Blocks that the client has free buffers for.
    pub free_blocks: u32,
    /// Objects that the client has, object 0 included.
    pub objects_done: u32,
}

/// What the caller of [`Server::poll`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerOutput {
    /// Send what is in the buffer to the group.
    Transmit(Transmit),
    /// Read this object and call [`Server::handle_loaded`] or [`Server::handle_load_failed`]; no hurry, others may
    /// be asked for meanwhile.
    Load(u32),
    /// Nothing to do until this instant or the next input.
    Wait(Option<Instant>),
}

/// A batch of datagrams of equal size in the caller's buffer, fit for `UDP_SEGMENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Bytes of each datagram; the buffer holds a whole number of them.
    pub segment: usize,
    /// Datagrams in the buffer.
    pub datagrams: usize,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Datagrams sent, of every kind.
    pub datagrams: u64,
    /// Bytes sent, [`crate::FRAMING`] included.
    pub wire_bytes: u64,
    /// DATA datagrams sent.
    pub blocks: u64,
    /// Those of them sent to repair an object rather than as part of a whole one.
    pub repair_blocks: u64,
    /// PROOF datagrams sent.
    pub proofs: u64,
    /// ANNOUNCE datagrams sent.
    pub announces: u64,
    /// REQUESTs understood.
    pub requests: u64,
    /// Datagrams dropped: not a REQUEST for this image, wrong lengths, or objects and blocks that do not exist.
    pub rejected: u64,
    /// Objects that could not be loaded, or were not what the manifest says.
    pub load_failures: u64,
}

/// The server of one image on one group. Keeps nothing per client; see the crate's documentation for the contract.
#[derive(Debug)]
pub struct Server {
    image: Image,
    stats: ServerStats,
}

impl Server {
    /// A server that has sent nothing yet; its first ANNOUNCE is due at once.
    ///
    /// # Errors
    /// [`Error::ObjectSize`] and [`Error::ObjectCount`] for an image that the protocol cannot carry.
    pub fn new(now: Instant, config: ServerConfig, image: Image) -> Result<Self, Error> {
        let _ = (now, config);
        crate::check_sizes(0, &image.objects)?;
        Ok(Self {
            image,
            stats: ServerStats::default(),
        })
    }

    /// Takes a datagram that arrived at the server's socket. Returns what it said about its client, or `None` if it
    /// was none of ours.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Option<Report> {
        let _ = (now, datagram);
        None
    }

    /// Takes an object asked for by [`ServerOutput::Load`]. One that is not what the image says counts as failed.
    pub fn handle_loaded(&mut self, now: Instant, object: u32, loaded: Arc<Loaded>) {
        let _ = (now, object, loaded.bytes.len(), loaded.tree.root());
    }

    /// The object cannot be read: it is not asked for again for a second, and what clients want of it is forgotten.
    pub fn handle_load_failed(&mut self, now: Instant, object: u32) {
        let _ = (now, object);
    }

    /// What to do next. `buffer` is cleared, and filled when the answer is `Transmit`; lend the same one every time.
    pub fn poll(&mut self, now: Instant, buffer: &mut Vec<u8>) -> ServerOutput {
        let _ = now;
        buffer.clear();
        ServerOutput::Wait(None)
    }

    /// The rate aimed at, in bits per second on the wire.
    pub fn rate(&self) -> u64 {
        0
    }

    /// Objects that have something queued, the one being sent included.
    pub fn queued_objects(&self) -> usize {
        self.image.objects.len()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &ServerStats {
        &self.stats
    }
}
