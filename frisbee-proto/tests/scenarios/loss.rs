//! Loss, reordering, duplication and corruption: everything arrives, at about the cost that is to be expected.

use std::sync::Arc;
use std::time::Duration;

use frisbee_sim::bound::{ideal_code, repeating_blocks};
use frisbee_sim::{Golden, Loss, Quality, Setup, World, usual_sizes};

use crate::seeds;

fn run(seed: u64, clients: usize, setup: &Setup) -> World {
    run_image(&Golden::usual(20, seed), seed, clients, setup)
}

fn run_image(golden: &Arc<Golden>, seed: u64, clients: usize, setup: &Setup) -> World {
    let mut world = World::new(seed);
    world.serve(golden, Some(200_000_000));
    for _ in 0..clients {
        world.join(golden, setup);
    }
    world.run().unwrap();
    let sent = world.hosts[0].server.stats();
    println!(
        "{clients} clients, seed {seed}: sent {:.3}, {} again, {} of parity, {:?}",
        world.overhead(),
        sent.repair_blocks,
        sent.parity_blocks,
        world.finished()
    );
    world
}

#[test]
fn without_loss_every_block_is_sent_once() {
    for clients in [1, 4, 8, 16] {
        for seed in seeds() {
            let world = run(seed, clients, &Setup::default());
            assert!(
                world.overhead() <= 1.05,
                "seed {seed}: {}",
                world.overhead()
            );
        }
    }
}

#[test]
fn without_parity_repeats_stay_near_the_bound() {
    for (loss, clients) in [(0.01, 1), (0.01, 16), (0.05, 1), (0.05, 16), (0.2, 4)] {
        for seed in seeds() {
            let setup = Setup {
                down: Quality::losing(loss),
                ..Setup::default()
            };
            let golden = Golden::without_parity(&usual_sizes(20), seed);
            let world = run_image(&golden, seed, clients, &setup);
            let bound = repeating_blocks(loss, u32::try_from(clients).unwrap());
            assert!(
                world.overhead() <= bound * 1.12,
                "seed {seed}: {} of {bound}",
                world.overhead()
            );
        }
    }
}

/// `frisbee-sim` has this for a thousand clients, without the bytes.
#[test]
fn with_parity_it_stays_near_the_least() {
    for (loss, clients) in [(0.01, 1), (0.01, 16), (0.05, 1), (0.05, 16)] {
        let least = ideal_code(&Loss::Random(loss), 1700, u32::try_from(clients).unwrap());
        let mut excesses = Vec::new();
        for seed in seeds() {
            let setup = Setup {
                down: Quality::losing(loss),
                ..Setup::default()
            };
            let world = run(seed, clients, &setup);
            let excess = world.overhead() - least;
            // A client may have lost a block of the manifest each time, and with it the beginning: one chunk of these twenty.
            assert!(excess <= 0.06, "seed {seed}: {excess} above {least}");
            excesses.push(excess);
            assert!(world.nodes.iter().all(|node| node.stats().restored > 0));
        }
        let mean = excesses.iter().sum::<f64>() / excesses.len() as f64;
        assert!(mean <= 0.01, "{excesses:?} above {least}");
    }
}

#[test]
fn at_random_loss_of_five_percent_one_client_is_hardly_slower() {
    for seed in seeds() {
        let ideal = run(seed, 1, &Setup::default()).finished();
        let setup = Setup {
            down: Quality::losing(0.05),
            ..Setup::default()
        };
        let lossy = run(seed, 1, &setup).finished();
        assert!(
            lossy < ideal.mul_f64(1.3),
            "seed {seed}: {lossy:?} instead of {ideal:?}"
        );
    }
}

#[test]
fn bursts_of_loss_are_repaired() {
    for seed in seeds() {
        let loss = Loss::Bursts {
            begin: 0.0005,
            end: 0.02,
            lost: 0.9,
        };
        let setup = Setup {
            down: Quality {
                loss,
                ..Quality::GOOD
            },
            ..Setup::default()
        };
        let world = run(seed, 8, &setup);
        assert!(world.overhead() < 1.6, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn reordered_and_duplicated_datagrams_cost_next_to_nothing() {
    for seed in seeds() {
        let down = Quality {
            reordered: 0.05,
            duplicated: 0.02,
            ..Quality::GOOD
        };
        let up = Quality {
            reordered: 0.2,
            duplicated: 0.2,
            ..Quality::GOOD
        };
        let world = run(
            seed,
            8,
            &Setup {
                down,
                up,
                ..Setup::default()
            },
        );
        assert!(
            world.overhead() <= 1.06,
            "seed {seed}: {}",
            world.overhead()
        );
    }
}

#[test]
fn corrupted_datagrams_that_pass_the_checksum_are_repaired() {
    for seed in seeds() {
        let down = Quality {
            corrupted: 0.01,
            ..Quality::GOOD
        };
        let up = Quality {
            corrupted: 0.1,
            ..Quality::GOOD
        };
        let world = run(
            seed,
            4,
            &Setup {
                down,
                up,
                ..Setup::default()
            },
        );
        assert!(
            world.nodes.iter().all(|node| node.stats().forged > 0),
            "seed {seed}"
        );
        assert!(world.overhead() <= 1.2, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn lost_requests_are_repeated() {
    for seed in seeds() {
        let ideal = run(seed, 1, &Setup::default()).finished();
        let setup = Setup {
            down: Quality::losing(0.02),
            up: Quality::losing(0.4),
            ..Setup::default()
        };
        let world = run(seed, 3, &setup);
        // A client whose first requests are lost is a late joiner.
        assert!(world.overhead() < 1.5, "seed {seed}: {}", world.overhead());
        assert!(
            world.finished() < ideal + Duration::from_secs(1),
            "seed {seed}: {:?}",
            world.finished()
        );
    }
}
