//! The client: chooses an image, takes and verifies every block that passes, and asks for what it lacks.

use std::net::SocketAddr;
use std::time::Instant;

use chunkfmt::tree::Cv;

use crate::ObjectInfo;

/// What a signed manifest head says, once it has been accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The image's UUID.
    pub uuid: [u8; 16],
    /// Blocks of object 0.
    pub object_blocks: u32,
    /// BLAKE3 root of object 0.
    pub object_root: Cv,
}

/// The caller's judgement of what is trusted: the client machine holds no key.
pub trait Admission {
    /// Judges the 1 KiB manifest head of an ANNOUNCE: its signature, and whether this is the image wanted. Called only
    /// while no image is chosen, at most 200 times a second whatever arrives.
    fn admit(&mut self, head: &[u8; 1024]) -> Option<Admitted>;

    /// Takes object 0, which has the root that [`Admission::admit`] returned, and returns the objects of all chunks in
    /// order (object 1 is the first of them). `None` if it is not understood: the client then gives up with
    /// [`Event::ManifestRefused`]. Called at most once.
    fn open_manifest(&mut self, object0: Vec<u8>) -> Option<Vec<ObjectInfo>>;
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Blocks of 1 KiB that open objects and delivered but not yet released ones may hold together. One object is
    /// always taken, even if it is larger.
    pub credit_blocks: u32,
    /// Largest object 0 accepted, in blocks: it is held beside the credit.
    pub max_manifest_blocks: u32,
    /// Seed of everything random, from the system's random source: the client's number comes from it.
    pub seed: u64,
}

impl Default for ClientConfig {
    /// 128 MiB of credit, manifests up to 256 MiB.
    fn default() -> Self {
        Self {
            credit_blocks: 128 << 10,
            max_manifest_blocks: 256 << 10,
            seed: 0,
        }
    }
}

/// What happened, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An image was admitted; its manifest is being fetched.
    ImageChosen {
        /// The image.
        uuid: [u8; 16],
    },
    /// The manifest is here. Call [`Client::skip`] now for objects that need not be fetched.
    Manifest {
        /// Objects of the image, object 0 included.
        objects: u32,
    },
    /// Requests now go to this address.
    Server(SocketAddr),
    /// [`Admission::open_manifest`] did not understand the manifest. The client does nothing more.
    ManifestRefused,
    /// Every object was delivered or skipped. The client does nothing more.
    Finished,
}

/// What the caller of [`Client::poll`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send this REQUEST.
    Send {
        /// To this server.
        to: SocketAddr,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// A complete and verified object (chunk `object - 1`). Call [`Client::release`] when its memory is free again.
    Object {
        /// Number of the object, from 1.
        object: u32,
        /// All its bytes.
        bytes: Vec<u8>,
    },
    /// Something worth telling the user.
    Event(Event),
    /// Nothing to do until this instant or the next input.
    Wait(Option<Instant>),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Datagrams given to the client.
    pub datagrams: u64,
    /// Not a datagram of the protocol: version, type or length.
    pub malformed: u64,
    /// Of another image, or about objects and blocks that do not exist.
    pub foreign: u64,
    /// ANNOUNCEs with a head that was not admitted, or not looked at because there were too many.
    pub refused_heads: u64,
    /// Blocks kept.
    pub blocks: u64,
    /// Blocks and proofs already there.
    pub duplicates: u64,
    /// Blocks that passed while no buffer was free.
    pub no_buffer: u64,
    /// Blocks and proofs that were found false.
    pub forged: u64,
    /// Groups of 16 blocks whose hash was wrong, so that each block had to be checked by itself.
    pub bad_groups: u64,
    /// REQUESTs sent.
    pub requests: u64,
    /// Datagrams missing in the sequence of the servers asked.
    pub lost: u64,
    /// Datagrams that the kernel dropped, as told by [`Client::note_receive_drops`].
    pub receive_drops: u64,
    /// Objects complete or skipped, object 0 included.
    pub objects_done: u64,
    /// Times that requests went over to another server.
    pub server_changes: u64,
}

/// The client of one image. See the crate's documentation for the contract.
#[derive(Debug)]
pub struct Client<A> {
    admission: A,
    config: ClientConfig,
    stats: ClientStats,
}

impl<A: Admission> Client<A> {
    /// A client that waits for an ANNOUNCE with a head that `admission` admits.
    pub fn new(now: Instant, config: ClientConfig, admission: A) -> Self {
        let _ = now;
        Self {
            admission,
            config,
            stats: ClientStats::default(),
        }
    }

    /// Takes a datagram from the group.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let _ = (now, from, datagram);
    }

    /// The memory of a delivered object is free again. Unknown objects are ignored.
    pub fn release(&mut self, now: Instant, object: u32) {
        let _ = (now, object);
    }

    /// This object need not be fetched (it is on the disk already). Has an effect from [`Event::Manifest`] on.
    pub fn skip(&mut self, now: Instant, object: u32) {
        let _ = (now, object);
    }

    /// The kernel dropped `count` more datagrams before they could be read. They are part of the loss that the
    /// sequence shows; this only tells the user where it happened.
    pub fn note_receive_drops(&mut self, count: u64) {
        self.stats.receive_drops = self.stats.receive_drops.saturating_add(count);
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> ClientOutput {
        let _ = (now, self.config.seed);
        ClientOutput::Wait(None)
    }

    /// Counters since the start.
    pub fn stats(&self) -> &ClientStats {
        &self.stats
    }

    /// Blocks of buffer in use: open objects, and delivered ones that were not released. Object 0 is not counted.
    pub fn blocks_in_use(&self) -> u32 {
        0
    }

    /// What judges the trust.
    pub fn admission(&self) -> &A {
        &self.admission
    }

    /// What judges the trust, to be taken apart when the client is no longer needed.
    pub fn into_admission(self) -> A {
        self.admission
    }
}
