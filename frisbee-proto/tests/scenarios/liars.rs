//! Hosts that know what the owner signed, and use it to hold clients up.

use std::net::SocketAddr;
use std::time::Duration;

use chunkfmt::tree::{NodeId, Tree};
use frisbee_proto::wire::{self, Announce, Stream};

use frisbee_sim::forger::{address, announce};
use frisbee_sim::{Golden, Setup, World};

use crate::seeds;

const RATE: Option<u64> = Some(200_000_000);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn an_old_head_that_is_repeated_does_not_keep_a_client() {
    // Once, or all the time and from the beginning.
    for repeats in [1, 200] {
        for seed in seeds() {
            let (golden, old) = (Golden::usual(8, seed), Golden::usual(8, seed + 1000));
            let mut world = World::new(seed);
            let setup = Setup {
                trusted: vec![old.clone()],
                ..Setup::default()
            };
            for _ in 0..2 {
                world.join(&golden, &setup);
            }
            for repeat in 0..repeats {
                let old = old.clone();
                world.at(millis(1 + u64::from(repeat) * 50), move |world| {
                    let head = announce(&old, 7, repeat, true, 0, 0);
                    world.multicast(address(), &head);
                });
            }
            let served = golden.clone();
            world.at(millis(10), move |world| _ = world.serve(&served, RATE));
            world.run().unwrap();
            assert!(
                world.finished() < Duration::from_secs(5),
                "seed {seed}: {:?}",
                world.finished()
            );
        }
    }
}

#[test]
fn of_many_old_heads_each_is_tried_once_before_the_true_one_is_found() {
    for seed in seeds() {
        let golden = Golden::usual(8, seed);
        let old: Vec<_> = (0..3)
            .map(|image| Golden::usual(8, seed + 1000 + image))
            .collect();
        let mut world = World::new(seed);
        let setup = Setup {
            trusted: old.clone(),
            ..Setup::default()
        };
        world.join(&golden, &setup);
        for repeat in 0..6000 {
            let old = old[repeat as usize % old.len()].clone();
            world.at(millis(1 + u64::from(repeat) * 5), move |world| {
                let head = announce(&old, 7, repeat, true, 0, 0);
                world.multicast(address(), &head);
            });
        }
        let served = golden.clone();
        world.at(millis(10), move |world| _ = world.serve(&served, RATE));
        world.run().unwrap();
        assert!(
            world.finished() < Duration::from_secs(40),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

/// A client whose first server sends the manifest and then `trickle`: what it does in a tick of 10 ms, a block of
/// object 1 and whether it is true. There is an idle true server on the group.
fn behind_a_liar(seed: u64, trickle: fn(u32) -> Option<(u32, bool)>) {
    let golden = Golden::new(&[9, 500, 500, 2065, 2065], seed);
    let mut world = World::new(seed);
    world.join(&golden, &Setup::default());
    let (liar, tree) = (golden.clone(), Tree::build(&golden.bytes[1]).unwrap());
    let stream = Stream {
        number: 7,
        uuid: golden.image.uuid,
    };
    let block = move |object: u32, block: u32, change: u8| {
        let bytes = &liar.bytes[object as usize][block as usize * 1024..][..1024];
        let mut payload: [u8; 1024] = bytes.try_into().unwrap();
        payload[0] ^= change;
        let mut datagram = Vec::new();
        stream.data(&mut datagram, 20 + block, object, block, &payload);
        datagram
    };
    let mut first: Vec<_> = (0..9).map(|number| block(0, number, 0)).collect();
    let top = NodeId { level: 1, index: 0 };
    let children = tree.node(&golden.bytes[1], top).unwrap();
    let mut datagram = Vec::new();
    let stream = Stream {
        number: 7,
        uuid: golden.image.uuid,
    };
    stream.proof(&mut datagram, 30, 1, top, &children);
    first.push(datagram);
    world.at(millis(2), move |world| {
        for datagram in first {
            world.multicast(address(), &datagram);
        }
    });
    for tick in 0..1500 {
        let liar = golden.clone();
        let sent = trickle(tick).map(|(number, truth)| block(1, number, u8::from(!truth)));
        world.at(millis(1 + u64::from(tick) * 10), move |world| {
            if tick % 10 == 0 {
                let head = announce(&liar, 7, tick, false, 0xff, 0);
                world.multicast(address(), &head);
            }
            if let Some(sent) = sent {
                world.multicast(address(), &sent);
            }
        });
    }
    let served = golden.clone();
    world.at(millis(10), move |world| _ = world.serve(&served, RATE));
    world.run().unwrap();
    assert!(
        world.finished() < Duration::from_secs(6),
        "seed {seed}: {:?}",
        world.finished()
    );
    assert!(world.nodes[0].stats().proven <= world.nodes[0].stats().blocks);
}

#[test]
fn a_server_that_promises_everything_and_sends_false_blocks_is_left() {
    for seed in seeds() {
        // A new block every 100 ms, never a whole group.
        behind_a_liar(seed, |tick| {
            let number = tick / 10;
            let place = number / 15 * 16 + number % 15;
            (tick % 10 == 0 && place < 500).then_some((place, false))
        });
    }
}

#[test]
fn a_server_that_only_trickles_is_left() {
    for seed in seeds() {
        // A whole true group every 640 ms.
        behind_a_liar(seed, |tick| {
            (tick % 4 == 0 && tick / 4 < 500).then_some((tick / 4, true))
        });
    }
}

#[test]
fn a_dead_request_address_in_the_name_of_the_server() {
    for seed in seeds() {
        let golden = Golden::usual(8, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        world.join(&golden, &Setup::default());
        let liar = golden.clone();
        world.forgers.push(Box::new(move |_, datagram| {
            let sent = wire::decode(datagram).unwrap();
            let lie = Announce {
                rate: 1,
                cursor: 0,
                queued: 9,
                idle: true,
                lane: false,
                promise: [0; 64],
                request_address: Some(address()),
                time: 0,
                grtt: 0,
                receivers: 0,
                repairs: Default::default(),
            };
            let stream = Stream {
                number: sent.stream,
                uuid: liar.image.uuid,
            };
            let mut forged = Vec::new();
            stream.announce(&mut forged, sent.sequence, &lie, &liar.image.head);
            vec![(SocketAddr::from(([10, 0, 0, 1], 7001)), forged)]
        }));
        world.run().unwrap();
        assert!(
            world.finished() < Duration::from_secs(5),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn copies_of_the_head_from_everywhere_do_not_move_clients_of_a_server_that_delivers() {
    for seed in seeds() {
        let golden = Golden::usual(16, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        for _ in 0..3 {
            world.join(&golden, &Setup::default());
        }
        let (liar, mut count) = (golden.clone(), 0);
        world.at(millis(100), move |world| {
            world.forgers.push(Box::new(move |random, _| {
                count += 1;
                let from = SocketAddr::from(([10, 9, random.u8(..), random.u8(..)], 7001));
                vec![(from, announce(&liar, random.u16(1..), count, true, 0, 0))]
            }));
        });
        world.run().unwrap();
        for node in &world.nodes {
            assert_eq!(node.stats().server_changes, 0, "seed {seed}");
        }
        assert!(
            world.finished() < Duration::from_secs(3),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}
