//! What goes into a server and comes out of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use chunkfmt::BLOCK_SIZE;
use chunkfmt::parity::ParityEncoder;
use chunkfmt::path::Paths;
use chunkfmt::tree::{Cv, NodeId, Tree};

use crate::{ObjectInfo, ParityInfo};

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

/// What a server keeps of a path that others use as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A fifth: others come first.
    Low,
    /// About half.
    #[default]
    Normal,
    /// Nearly all.
    High,
}

impl Priority {
    /// The part of what the path carries below which others do not bring the rate, in parts in a million.
    pub(super) fn share(self) -> u64 {
        match self {
            Self::Low => 200_000,
            Self::Normal => 550_000,
            Self::High => 850_000,
        }
    }

    /// Whether others are made to give way for a moment, to find out what a path carries that they fill.
    pub(super) fn insists(self) -> bool {
        self != Self::Low
    }
}

/// How a server behaves. `ServerConfig::default()` is what a daemon without options uses, but for the seed.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Rate never exceeded, in bits per second on the wire (`framing` included), and where the rate begins. `None`:
    /// what the network carries and clients keep up with; begins at 8 Mbit/s and doubles within some 30 ms.
    pub ceiling: Option<u64>,
    /// What is kept of a path that others use as well.
    pub priority: Priority,
    /// Most datagrams in one [`Transmit`], 1 to 60 (at most 65,000 bytes, what UDP segmentation offload takes).
    pub max_segments: usize,
    /// Bytes of loaded objects that the server keeps (object 0 beside them); at least the largest object is kept.
    pub cache_bytes: usize,
    /// The datagrams go to one client alone instead of a group, and ANNOUNCEs say so.
    pub lane: bool,
    /// Where clients send requests, if not to the source address of the server's datagrams.
    pub request_address: Option<SocketAddr>,
    /// Bytes that a datagram costs beside its payload: what [`crate::framing`] says for the address of the group.
    pub framing: usize,
    /// Seed of everything random, from the system's random source: the number of this run's stream comes from it, and
    /// a restarted server must have another one.
    pub seed: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            ceiling: None,
            priority: Priority::Normal,
            max_segments: 60,
            cache_bytes: 32 << 20,
            lane: false,
            request_address: None,
            framing: crate::FRAMING,
            seed: 0,
        }
    }
}

/// One object in memory, with the tree that its proofs are taken from.
#[derive(Debug)]
pub struct Loaded {
    pub(crate) bytes: Vec<u8>,
    tree: Tree,
}

impl Loaded {
    /// Hashes an object's bytes (on the caller's thread). `None` unless they are a whole, non-zero number of blocks.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let tree = Tree::build(&bytes)?;
        Some(Self { bytes, tree })
    }

    /// The object's size and root; nothing of parity.
    pub fn info(&self) -> ObjectInfo {
        ObjectInfo {
            blocks: self.tree.shape().blocks(),
            root: self.tree.root(),
            parity: None,
        }
    }

    /// The object's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether these are the bytes of that object.
    pub(super) fn is(&self, info: &ObjectInfo) -> bool {
        self.tree.shape().blocks() == info.blocks && self.tree.root() == info.root
    }
}

/// The parity blocks of one object, with what proves each of them.
#[derive(Debug)]
pub struct Parity {
    bytes: Vec<u8>,
    paths: Paths,
}

impl Parity {
    /// Computes them, on the caller's thread. `None` if there is no code for so many.
    pub fn of(object: &Loaded, blocks: u16) -> Option<Self> {
        let mut bytes = Vec::with_capacity(usize::from(blocks) * BLOCK_SIZE);
        ParityEncoder::default()
            .blocks(&object.bytes, blocks.into(), |block| {
                bytes.extend_from_slice(block);
            })
            .ok()?;
        let paths = Paths::build(&bytes)?;
        Some(Self { bytes, paths })
    }

    /// Their number and root.
    pub fn info(&self) -> ParityInfo {
        ParityInfo {
            blocks: u16::try_from(self.bytes.len() / BLOCK_SIZE).unwrap_or(u16::MAX),
            root: self.paths.root(),
        }
    }

    /// Bytes of all of them.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// One of them; what proves it goes into `path`.
    pub(crate) fn block(&self, index: u16, path: &mut Vec<Cv>) -> Option<&[u8; BLOCK_SIZE]> {
        self.paths.path(index.into(), path);
        self.bytes
            .get(usize::from(index) * BLOCK_SIZE..)?
            .first_chunk()
    }
}

/// What the caller of [`crate::Server::poll`] has to do.
#[derive(Clone, Debug)]
pub enum ServerOutput {
    /// Send what is in the buffer to the group.
    Transmit(Transmit),
    /// Read this object and call [`crate::Server::handle_loaded`] or [`crate::Server::handle_load_failed`]; no hurry, others may
    /// be asked for meanwhile.
    Load(u32),
    /// Compute ([`Parity::of`], a millisecond for each MiB) and call [`crate::Server::handle_parity`]; no hurry.
    Encode {
        /// The object.
        object: u32,
        /// Its bytes.
        loaded: Arc<Loaded>,
        /// How many parity blocks it has.
        blocks: u16,
    },
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
    /// Bytes sent, [`ServerConfig::framing`] included.
    pub wire_bytes: u64,
    /// DATA datagrams sent.
    pub blocks: u64,
    /// Those of them sent to repair an object rather than as part of a whole one.
    pub repair_blocks: u64,
    /// PARITY datagrams sent.
    pub parity_blocks: u64,
    /// PROOF datagrams sent.
    pub proofs: u64,
    /// ANNOUNCE datagrams sent.
    pub announces: u64,
    /// REQUESTs understood.
    pub requests: u64,
    /// Datagrams dropped: not a REQUEST for this image, wrong lengths, or objects and blocks that do not exist.
    pub rejected: u64,
    /// REQUESTs dropped because there were too many at once.
    pub overload: u64,
    /// Objects that could not be loaded, or were not what the manifest says.
    pub load_failures: u64,
}

impl ServerStats {
    /// Adds what another machine has done.
    pub fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.wire_bytes += other.wire_bytes;
        self.blocks += other.blocks;
        self.repair_blocks += other.repair_blocks;
        self.parity_blocks += other.parity_blocks;
        self.proofs += other.proofs;
        self.announces += other.announces;
        self.requests += other.requests;
        self.rejected += other.rejected;
        self.overload += other.overload;
        self.load_failures += other.load_failures;
    }
}

impl Loaded {
    /// The values of a node's children.
    pub(crate) fn node(&self, node: NodeId) -> Option<Vec<Cv>> {
        self.tree.node(&self.bytes, node)
    }

    /// One block.
    pub(crate) fn block(&self, block: u32) -> Option<&[u8; BLOCK_SIZE]> {
        let start = usize::try_from(block).ok()?.checked_mul(BLOCK_SIZE)?;
        self.bytes.get(start..)?.first_chunk()
    }
}
