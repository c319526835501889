//! Clients with few buffers, or with a disk that is slow to free them. That the credit is kept is asserted by the
//! world after every datagram.

use std::time::Duration;

use frisbee_sim::{Golden, Quality, Setup, World};

use crate::seeds;

const RATE: Option<u64> = Some(500_000_000);

fn run(seed: u64, setups: &[Setup]) -> World {
    let golden = Golden::usual(20, seed);
    let mut world = World::new(seed);
    world.serve(&golden, RATE);
    for setup in setups {
        world.join(&golden, setup);
    }
    world.run().unwrap();
    println!(
        "seed {seed}: sent {:.3}, {:?}",
        world.overhead(),
        world.finished()
    );
    world
}

#[test]
fn one_buffer_is_enough() {
    for seed in seeds() {
        let setup = Setup {
            credit: 1,
            down: Quality::losing(0.02),
            ..Setup::default()
        };
        let world = run(seed, &[setup]);
        assert!(world.overhead() < 1.1, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_secs(5),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn a_slow_disk_sets_the_pace_of_a_lone_client() {
    for seed in seeds() {
        let setup = Setup {
            credit: 5000,
            consume: Duration::from_millis(200),
            ..Setup::default()
        };
        let world = run(seed, &[setup]);
        assert!(world.overhead() < 1.01, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_millis(4600),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}

#[test]
fn a_slow_client_does_not_slow_the_others() {
    for seed in seeds() {
        let slow = Setup {
            credit: 5000,
            consume: Duration::from_millis(200),
            ..Setup::default()
        };
        let mut setups = vec![
            Setup {
                down: Quality::losing(0.01),
                ..Setup::default()
            };
            3
        ];
        let alone = run(seed, &setups).finished();
        setups.push(slow);
        let world = run(seed, &setups);
        let fast = world.nodes[..3]
            .iter()
            .filter_map(|node| node.finished)
            .max()
            .unwrap();
        assert!(
            fast < alone.mul_f64(1.5),
            "seed {seed}: {fast:?}, alone {alone:?}"
        );
        assert!(world.overhead() < 2.2, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < Duration::from_secs(6),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}
