//! Objects and images of every size.

use std::sync::Arc;

use frisbee_proto::{Error, Image, ObjectInfo, Server, ServerConfig};

use crate::golden::Golden;
use crate::link::Quality;
use crate::world::{Setup, World, seeds};

fn run(seed: u64, blocks: &[u32], loss: f64) -> World {
    let golden = Golden::new(blocks, seed);
    let mut world = World::new(seed);
    world.serve(&golden, Some(1_000_000_000));
    for _ in 0..3 {
        world.join(
            &golden,
            &Setup {
                down: Quality::losing(loss),
                ..Setup::default()
            },
        );
    }
    world.run();
    world
}

#[test]
fn objects_of_every_size_arrive() {
    for loss in [0.0, 0.1] {
        for seed in seeds() {
            run(
                seed,
                &[
                    5, 1, 2, 15, 16, 17, 32, 33, 511, 512, 513, 528, 529, 1024, 1025, 2049, 2065, 1,
                ],
                loss,
            );
        }
    }
}

#[test]
fn a_manifest_may_be_larger_than_any_chunk() {
    for seed in seeds() {
        run(seed, &[20_000, 30, 2065, 40], 0.02);
    }
}

#[test]
fn an_image_may_have_no_chunks() {
    for blocks in [1, 5, 513] {
        let world = run(7, &[blocks], 0.05);
        assert!(
            world
                .nodes
                .iter()
                .all(|node| node.finished.is_some() && node.got.is_empty())
        );
    }
}

#[test]
fn thousands_of_tiny_objects_arrive() {
    let blocks: Vec<u32> = std::iter::once(120)
        .chain((0..3000).map(|i| 1 + i % 3))
        .collect();
    for seed in seeds() {
        let world = run(seed, &blocks, 0.02);
        assert!(world.overhead() < 1.3, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn what_the_protocol_cannot_carry_is_refused_at_the_start() {
    let golden = Golden::usual(1, 1);
    let now = std::time::Instant::now();
    let with = |objects| Image {
        objects,
        ..golden.image.clone()
    };
    let none = Server::new(now, ServerConfig::default(), with(Vec::new()));
    assert!(matches!(none, Err(Error::ObjectCount(0))));
    let empty = ObjectInfo {
        blocks: 0,
        root: [0; 32],
        parity: None,
    };
    let empty = Server::new(
        now,
        ServerConfig::default(),
        with(vec![golden.image.objects[0], empty]),
    );
    assert!(matches!(
        empty,
        Err(Error::ObjectSize {
            object: 1,
            blocks: 0
        })
    ));
}

#[test]
fn an_object_that_changed_under_the_server_is_not_sent() {
    let golden = Golden::usual(6, 3);
    let mut changed = (*golden).clone();
    changed.objects[4] = Arc::clone(&Golden::usual(6, 4).objects[4]);
    let changed = Arc::new(changed);
    let mut world = World::new(3);
    world.serve(&changed, Some(200_000_000));
    world.join(&golden, &Setup::default());
    world.run_for(std::time::Duration::from_secs(10));
    assert_eq!(
        world.nodes[0].got.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3, 5, 6]
    );
    assert_eq!(world.nodes[0].stats().forged, 0);
    let failures = world.hosts[0].server.stats().load_failures;
    assert!(
        (5..=11).contains(&failures),
        "{failures} reads of a broken object in 10 s"
    );
}
