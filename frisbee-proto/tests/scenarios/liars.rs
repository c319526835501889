//! Hosts that know what the owner signed, and use it to hold clients up.

use std::time::Duration;

use crate::forgery::{announce, forger_address};
use crate::golden::Golden;
use crate::world::{Setup, World, seeds};

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
                    world.multicast(forger_address(), &head);
                });
            }
            let served = golden.clone();
            world.at(millis(10), move |world| _ = world.serve(&served, RATE));
            world.run();
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
                world.multicast(forger_address(), &head);
            });
        }
        let served = golden.clone();
        world.at(millis(10), move |world| _ = world.serve(&served, RATE));
        world.run();
        assert!(
            world.finished() < Duration::from_secs(40),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}
