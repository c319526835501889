//! Loss, reordering and duplication: everything arrives, at about the cost that block repeats must have.

use std::time::Duration;

use crate::link::{Loss, Quality};
use crate::world::{Golden, SEEDS, Setup, World};

const GIGABIT: Option<u64> = Some(1_000_000_000);

/// Expected transmissions per block until each of `clients` has it, each losing `loss` of them independently.
fn bound(loss: f64, clients: i32) -> f64 {
    (0..100).map(|round| 1.0 - (1.0 - loss.powi(round)).powi(clients)).sum()
}

fn run(seed: u64, clients: usize, setup: &Setup) -> World {
    let golden = Golden::usual(20, seed);
    let mut world = World::new(seed);
    world.serve(&golden, GIGABIT);
    for _ in 0..clients {
        world.join(&golden, setup);
    }
    world.run();
    let stats = world.hosts[0].server.stats();
    println!(
        "seed {seed}: {clients} clients: sent {:.3} in {:?}, {} proofs, {} requests",
        world.overhead(), world.finished(), stats.proofs, stats.requests
    );
    world
}

#[test]
fn without_loss_every_block_is_sent_once() {
    for clients in [1, 4, 8, 16] {
        for seed in SEEDS {
            let world = run(seed, clients, &Setup::default());
            assert!(world.overhead() <= 1.05, "seed {seed}: {}", world.overhead());
        }
    }
}

#[test]
fn with_random_loss_repeats_stay_near_the_bound() {
    for (loss, clients) in [(0.01, 1), (0.01, 16), (0.05, 1), (0.05, 16), (0.2, 4)] {
        for seed in SEEDS {
            let setup = Setup { down: Quality::losing(loss), ..Setup::default() };
            let world = run(seed, clients, &setup);
            let bound = bound(loss, clients as i32);
            assert!(world.overhead() <= bound * 1.15, "seed {seed}: {} of {bound}", world.overhead());
        }
    }
}
