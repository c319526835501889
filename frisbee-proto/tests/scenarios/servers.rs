//! Servers that die, come back, or are two.

use std::time::Duration;

use frisbee_sim::{Golden, Quality, Setup, World};

use crate::seeds;

const RATE: Option<u64> = Some(200_000_000);

#[test]
fn a_server_that_is_restarted_carries_on() {
    for seed in seeds() {
        let golden = Golden::usual(30, seed);
        let mut world = World::new(seed);
        let first = world.serve(&golden, RATE);
        for _ in 0..4 {
            world.join(
                &golden,
                &Setup {
                    down: Quality::losing(0.01),
                    ..Setup::default()
                },
            );
        }
        let (again, address) = (golden.clone(), world.hosts[first].address);
        world.at(Duration::from_millis(900), move |world| world.kill(first));
        world.at(Duration::from_millis(2900), move |world| {
            _ = world.serve_at(&again, RATE, address);
        });
        world.run().unwrap();
        assert!(world.overhead() < 1.3, "seed {seed}: {}", world.overhead());
        // 2.2 s of data and 2 s of absence.
        assert!(
            world.finished() < Duration::from_millis(5300),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn another_server_takes_over_when_one_dies() {
    for seed in seeds() {
        let golden = Golden::usual(30, seed);
        let mut world = World::new(seed);
        let first = world.serve(&golden, RATE);
        for _ in 0..4 {
            world.join(
                &golden,
                &Setup {
                    down: Quality::losing(0.01),
                    ..Setup::default()
                },
            );
        }
        let second = golden.clone();
        world.at(Duration::from_millis(300), move |world| {
            _ = world.serve(&second, RATE);
        });
        world.at(Duration::from_millis(900), move |world| world.kill(first));
        world.run().unwrap();
        assert!(
            world.hosts[1].server.stats().blocks > golden.blocks() / 3,
            "seed {seed}"
        );
        assert!(world.overhead() < 1.5, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_millis(4500),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn two_servers_at_once_do_no_harm() {
    for seed in seeds() {
        let golden = Golden::usual(20, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        world.serve(&golden, RATE);
        for _ in 0..6 {
            world.join(
                &golden,
                &Setup {
                    down: Quality::losing(0.01),
                    ..Setup::default()
                },
            );
        }
        world.run().unwrap();
        println!(
            "seed {seed}: sent {:.3}, {:?}",
            world.overhead(),
            world.finished()
        );
        assert!(world.overhead() < 1.5, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn another_image_on_the_same_group_is_not_mixed_up() {
    for seed in seeds() {
        let (one, other) = (Golden::usual(12, seed), Golden::usual(15, seed + 1000));
        let mut world = World::new(seed);
        world.serve(&one, RATE);
        world.serve(&other, RATE);
        for golden in [&one, &other, &one, &other] {
            world.join(
                golden,
                &Setup {
                    down: Quality::losing(0.01),
                    ..Setup::default()
                },
            );
        }
        world.run().unwrap();
        assert!(
            world.nodes.iter().all(|node| node.stats().foreign > 1000),
            "seed {seed}"
        );
        for (host, golden) in world.hosts.iter().zip([&one, &other]) {
            let sent = host.server.stats().blocks as f64 / golden.blocks() as f64;
            assert!(sent < 1.2, "seed {seed}: {sent}");
        }
    }
}

#[test]
fn without_a_ceiling_the_rate_finds_a_way_with_heavy_loss() {
    for seed in seeds() {
        let golden = Golden::usual(12, seed);
        let mut world = World::new(seed);
        world.serve(&golden, None);
        for _ in 0..3 {
            world.join(
                &golden,
                &Setup {
                    down: Quality::losing(0.2),
                    ..Setup::default()
                },
            );
        }
        world.run().unwrap();
        assert!(
            world.finished() < Duration::from_secs(60),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}
