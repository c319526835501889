//! Hosts on the group that lie. They may cost time; nothing false is ever delivered (the world compares every byte).

use std::net::SocketAddr;
use std::time::Duration;

use frisbee_proto::wire::{self, Announce, Item, Message, RequestHead, RequestItems, Stream};

use crate::golden::Golden;
use crate::link::Quality;
use crate::world::{Forger, Setup, World, seeds};

const RATE: Option<u64> = Some(200_000_000);

pub(crate) fn forger_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 99], 6666))
}

/// A run with three clients at 1 % loss and one forger.
fn run(seed: u64, forger: Forger) -> World {
    let golden = Golden::usual(16, seed);
    let mut world = World::new(seed);
    world.serve(&golden, RATE);
    for _ in 0..3 {
        world.join(
            &golden,
            &Setup {
                down: Quality::losing(0.01),
                ..Setup::default()
            },
        );
    }
    world.forgers.push(forger);
    world.run();
    println!(
        "seed {seed}: sent {:.3}, {:?}",
        world.overhead(),
        world.finished()
    );
    world
}

/// The same datagram with a changed payload, in the name of the genuine server.
fn falsify(datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut forged = datagram.to_vec();
    forged[wire::HEADER_SIZE + 7] ^= 0x40;
    vec![(SocketAddr::from(([10, 0, 0, 1], 7001)), forged)]
}

#[test]
fn false_blocks_ahead_of_the_true_ones() {
    for (share, most) in [(0.01, 1.2), (0.2, 1.8), (0.5, 2.5)] {
        for seed in seeds() {
            let world = run(
                seed,
                Box::new(move |random, datagram| {
                    let data = matches!(wire::decode(datagram).unwrap().message, Message::Data(..));
                    if data && random.f64() < share {
                        falsify(datagram)
                    } else {
                        Vec::new()
                    }
                }),
            );
            assert!(
                world.overhead() < most,
                "seed {seed}: {} at {share}",
                world.overhead()
            );
            assert!(world.nodes.iter().all(|node| node.stats().forged > 10));
        }
    }
}

#[test]
fn every_block_has_a_false_copy_before_it() {
    for seed in seeds() {
        let world = run(
            seed,
            Box::new(|_, datagram| {
                let data = matches!(wire::decode(datagram).unwrap().message, Message::Data(..));
                if data { falsify(datagram) } else { Vec::new() }
            }),
        );
        assert!(world.overhead() < 2.5, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn false_proofs() {
    for seed in seeds() {
        let world = run(
            seed,
            Box::new(|_, datagram| {
                let proof = matches!(wire::decode(datagram).unwrap().message, Message::Proof(..));
                if proof { falsify(datagram) } else { Vec::new() }
            }),
        );
        assert!(world.overhead() < 1.15, "seed {seed}: {}", world.overhead());
        assert!(world.nodes.iter().all(|node| node.stats().forged > 10));
    }
}

#[test]
fn blocks_of_objects_that_nobody_sends_open_buffers_but_stop_nothing() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let uuid = golden.image.uuid;
        let world = run(
            seed,
            Box::new(move |random, _| {
                let mut forged = Vec::new();
                let stream = Stream {
                    number: random.u16(..),
                    uuid,
                };
                stream.data(
                    &mut forged,
                    random.u32(..),
                    random.u32(..40),
                    random.u32(..3000),
                    &[9; 1024],
                );
                vec![(forger_address(), forged)]
            }),
        );
        assert!(world.overhead() < 2.5, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn a_head_that_is_not_admitted_is_nothing() {
    for seed in seeds() {
        let world = run(
            seed,
            Box::new(|_, datagram| {
                let mut forged = datagram.to_vec();
                forged[500] ^= 1;
                vec![(forger_address(), forged)]
                    .into_iter()
                    .filter(|_| datagram.len() == wire::ANNOUNCE_SIZE)
                    .collect()
            }),
        );
        assert!(
            world
                .nodes
                .iter()
                .all(|node| node.stats().refused_heads > 0)
        );
        assert!(world.overhead() < 1.15, "seed {seed}: {}", world.overhead());
    }
}

/// An ANNOUNCE with the genuine head and these claims.
pub(crate) fn announce(
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
        promise: [promise; 64],
        request_address: None,
        time: 0,
        grtt: 0,
        receivers: 0,
        repairs: Default::default(),
    };
    Stream {
        number,
        uuid: golden.image.uuid,
    }
    .announce(&mut forged, sequence, &announce, &golden.image.head);
    forged
}

#[test]
fn a_copied_head_from_an_address_that_never_answers_and_promises_everything() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let copy = golden.clone();
        let mut count = 0;
        let world = run(
            seed,
            Box::new(move |_, datagram| {
                count += 1;
                let now = count % 50 == 0 || datagram.len() == wire::ANNOUNCE_SIZE;
                let forged =
                    now.then(|| (forger_address(), announce(&copy, 7, count, false, 0xff, 0)));
                forged.into_iter().collect()
            }),
        );
        // The forger's ANNOUNCE comes first: every client asks it first.
        assert!(
            world
                .nodes
                .iter()
                .all(|node| node.stats().server_changes > 0),
            "seed {seed}"
        );
        assert!(world.overhead() < 1.3, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_secs(5),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn many_servers_that_do_not_exist() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let copy = golden.clone();
        let world = run(
            seed,
            Box::new(move |random, _| {
                let from = SocketAddr::from(([10, 9, random.u8(..), random.u8(..)], 7001));
                vec![(
                    from,
                    announce(
                        &copy,
                        random.u16(1..),
                        random.u32(..),
                        true,
                        0,
                        random.u32(..),
                    ),
                )]
            }),
        );
        assert!(
            world.finished() < Duration::from_secs(20),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn false_announces_in_the_name_of_the_server() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let copy = golden.clone();
        let world = run(
            seed,
            Box::new(move |random, datagram| {
                let number = wire::decode(datagram).unwrap().stream;
                let lie = announce(
                    &copy,
                    number,
                    random.u32(..),
                    random.bool(),
                    random.u8(..),
                    random.u32(..),
                );
                let from = SocketAddr::from(([10, 0, 0, 1], 7001));
                if random.u32(..100) < 5 {
                    vec![(from, lie)]
                } else {
                    Vec::new()
                }
            }),
        );
        assert!(world.overhead() < 2.5, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_secs(20),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn a_flood_of_requests_makes_no_server_faster_and_starves_nobody() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let mut world = World::new(seed);
        let host = world.serve(&golden, RATE);
        for _ in 0..3 {
            world.join(
                &golden,
                &Setup {
                    down: Quality::losing(0.01),
                    ..Setup::default()
                },
            );
        }
        let uuid = golden.image.uuid;
        for tick in 0..20_000 {
            world.at(Duration::from_micros(tick * 100), move |world| {
                let mut random = fastrand::Rng::with_seed(seed * 100_000 + tick);
                let mut items = RequestItems::default();
                let bitmap = [0xff; 60];
                loop {
                    let object = random.u32(..20);
                    let item = match random.u8(..3) {
                        0 => Item::Whole { object },
                        1 => Item::Blocks {
                            object,
                            first: random.u32(..3000),
                            bitmap: &bitmap,
                        },
                        _ => Item::Node {
                            object,
                            node: chunkfmt::tree::NodeId {
                                level: random.u8(..4),
                                index: random.u32(..200),
                            },
                        },
                    };
                    if !items.push(&item) {
                        break;
                    }
                }
                let stream = Stream {
                    number: random.u16(..),
                    uuid,
                };
                let head = RequestHead {
                    client: 1,
                    lost: u32::MAX,
                    ..RequestHead::default()
                };
                world.request(host, items.encode(&stream, random.u32(..), &head));
            });
        }
        world.run();
        // The world asserts that the rate was kept. Half of it, at least, went to those who needed it.
        let took = world
            .nodes
            .iter()
            .filter_map(|node| node.finished)
            .max()
            .unwrap();
        assert!(took < Duration::from_secs(12), "seed {seed}: {took:?}");
        assert!(
            world.hosts[0].server.stats().overload > 0,
            "the flood was no flood"
        );
        assert!(world.hosts[0].server.queued_objects() <= 2 * golden.image.objects.len() + 1);
    }
}

#[test]
fn noise_is_counted_and_forgotten() {
    for seed in seeds() {
        let world = run(
            seed,
            Box::new(|random, datagram| {
                let mut noise = vec![0; random.usize(..1600)];
                random.fill(&mut noise);
                let keep = random.usize(..wire::HEADER_SIZE + 1).min(noise.len());
                noise[..keep].copy_from_slice(&datagram[..keep]);
                vec![(forger_address(), noise)]
            }),
        );
        assert!(world.overhead() < 1.2, "seed {seed}: {}", world.overhead());
        assert!(world.nodes.iter().all(|node| node.stats().malformed > 1000));
    }
}
