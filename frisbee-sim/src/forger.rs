//! Hosts on the group that lie.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use frisbee_proto::wire::{self, Announce, Item, Message, RequestHead, RequestItems, Stream};

use crate::golden::Golden;
use crate::link::Quality;
use crate::node::Setup;
use crate::world::World;

/// Sees every datagram of the group and answers with its own, each in somebody's name, which reach every client first.
pub type Forger = Box<dyn FnMut(&mut fastrand::Rng, &[u8]) -> Vec<(SocketAddr, Vec<u8>)>>;

/// A host of its own, which never answers.
pub fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 99], 6666))
}

/// The first server of a world.
pub(crate) fn genuine() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7001))
}

/// The same datagram with a changed payload, in the name of the genuine server.
pub fn falsify(datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut forged = datagram.to_vec();
    if let Some(byte) = forged.get_mut(wire::HEADER_SIZE + 7) {
        *byte ^= 0x40;
    }
    vec![(genuine(), forged)]
}

/// An ANNOUNCE with the genuine head and these claims.
pub fn announce(
    golden: &Golden,
    number: u16,
    sequence: u32,
    idle: bool,
    promise: u8,
    cursor: u32,
) -> Vec<u8> {
    let mut forged = Vec::new();
    let announce = Announce {
        rate: 1,
        cursor,
        queued: 9,
        idle,
        lane: false,
        promise: [promise; 64],
        request_address: None,
        time: 0,
        grtt: 0,
        receivers: 0,
        repairs: Default::default(),
    };
    let uuid = golden.image.uuid;
    Stream { number, uuid }.announce(&mut forged, sequence, &announce, &golden.image.head);
    forged
}

/// As many random items as one REQUEST takes, and the worst that can be said about a client.
pub fn greedy_request(golden: &Golden, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut items = RequestItems::default();
    let bitmap = [0xff; 60];
    loop {
        let object = random.u32(..20);
        let item = match random.u8(..4) {
            0 => Item::Whole { object },
            1 => Item::Blocks {
                object,
                first: random.u32(..3000),
                bitmap: &bitmap,
            },
            2 => Item::Node {
                object,
                node: chunkfmt::tree::NodeId {
                    level: random.u8(..4),
                    index: random.u32(..200),
                },
            },
            _ => Item::Parity {
                object,
                count: random.u16(1..),
            },
        };
        if !items.push(&item) {
            break;
        }
    }
    let (number, uuid) = (random.u16(..), golden.image.uuid);
    let head = RequestHead {
        client: random.u64(..),
        lost: u32::MAX,
        ..RequestHead::default()
    };
    items.encode(&Stream { number, uuid }, random.u32(..), &head)
}

fn share(random: &mut fastrand::Rng) -> f64 {
    match random.u8(..4) {
        0 => 1.0,
        1 => random.f64(),
        _ => random.f64() * 0.1,
    }
}

/// What a forger of a random room does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A false copy before this share of the blocks, proofs and parity blocks.
    Copies(f64),
    /// Blocks that nobody asked for.
    Strays(f64),
    /// ANNOUNCEs with the true head, from a server that does not exist.
    Heads(f64),
    /// ANNOUNCEs with the true head and lies, in the name of the server.
    Lies(f64),
    /// Bytes.
    Noise(f64),
    /// What was sent before.
    Replays(f64),
    /// What an earlier run of the server sent of the same image, in its name.
    Epoch(f64),
    /// What a server of another image sent, in the name of this one.
    Image(f64),
}

/// What a server sent in a room of its own, to a client that lost some of it.
fn recorded(golden: &Arc<Golden>, seed: u64) -> Vec<Vec<u8>> {
    let mut world = World::new(seed);
    world.serve(golden, Some(100_000_000));
    let setup = Setup {
        down: Quality::losing(0.05),
        ..Setup::default()
    };
    world.join(golden, &setup);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&heard);
    world.forgers.push(Box::new(move |_, datagram| {
        let mut heard = writer.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(datagram.to_vec());
        Vec::new()
    }));
    // What is not heard to the end is a recording as well.
    let _ = world.run();
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *heard)
}

impl Kind {
    /// One that sends at most as many datagrams as come from servers.
    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        let share = share(random);
        let kinds = [
            Self::Copies,
            Self::Strays,
            Self::Heads,
            Self::Lies,
            Self::Noise,
            Self::Replays,
        ];
        kinds[random.usize(..kinds.len())](share)
    }

    /// One that repeats what was true elsewhere.
    pub(crate) fn elsewhere(random: &mut fastrand::Rng) -> Self {
        let share = share(random);
        match random.bool() {
            true => Self::Epoch(share),
            false => Self::Image(share),
        }
    }

    fn share(self) -> f64 {
        match self {
            Self::Copies(share)
            | Self::Strays(share)
            | Self::Heads(share)
            | Self::Lies(share)
            | Self::Noise(share)
            | Self::Replays(share)
            | Self::Epoch(share)
            | Self::Image(share) => share,
        }
    }

    pub(crate) fn forger(self, golden: Arc<Golden>, seed: u64) -> Forger {
        let mut before: VecDeque<_> = match self {
            Self::Epoch(_) => recorded(&golden, seed ^ 0xe9_0c48).into(),
            Self::Image(_) => {
                let other = Golden::new(&[2, 40, 129], seed ^ 0x1_4a6e);
                recorded(&other, seed).into()
            }
            _ => VecDeque::new(),
        };
        let records = matches!(self, Self::Replays(_));
        Box::new(move |random, datagram| {
            if records {
                if before.len() == 300 {
                    before.pop_front();
                }
                before.push_back(datagram.to_vec());
            }
            if random.f64() >= self.share() {
                return Vec::new();
            }
            self.forge(random, datagram, &golden, &before)
        })
    }

    fn forge(
        self,
        random: &mut fastrand::Rng,
        datagram: &[u8],
        golden: &Golden,
        before: &VecDeque<Vec<u8>>,
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let Ok(sent) = wire::decode(datagram) else {
            return Vec::new();
        };
        let uuid = golden.image.uuid;
        match self {
            Self::Copies(_) if matches!(sent.message, Message::Announce(..)) => Vec::new(),
            Self::Copies(_) => falsify(datagram),
            Self::Strays(_) => {
                let mut forged = Vec::new();
                let number = if random.bool() {
                    sent.stream
                } else {
                    random.u16(..)
                };
                let (object, block) = (random.u32(..8), random.u32(..250));
                let sequence = sent.sequence.wrapping_add(random.u32(..100));
                Stream { number, uuid }.data(&mut forged, sequence, object, block, &[9; 1024]);
                let from = [genuine(), address()][random.usize(..2)];
                vec![(from, forged)]
            }
            Self::Heads(_) => {
                let forged = announce(golden, 7, random.u32(..), random.bool(), 0xff, 0);
                vec![(address(), forged)]
            }
            Self::Lies(_) => {
                let (idle, promise) = (random.bool(), random.u8(..));
                let (sequence, cursor) = (random.u32(..), random.u32(..10));
                let forged = announce(golden, sent.stream, sequence, idle, promise, cursor);
                vec![(genuine(), forged)]
            }
            Self::Noise(_) => {
                let mut noise = vec![0; random.usize(..1600)];
                random.fill(&mut noise);
                let keep = random.usize(..wire::HEADER_SIZE + 1).min(noise.len());
                noise[..keep].copy_from_slice(&datagram[..keep]);
                vec![(address(), noise)]
            }
            Self::Replays(_) | Self::Epoch(_) | Self::Image(_) => {
                let heard = before.get(random.usize(..before.len().max(1)));
                heard
                    .map(|heard| (genuine(), heard.clone()))
                    .into_iter()
                    .collect()
            }
        }
    }
}
