//! Clients that come when they like, go, and come again.

use std::time::Duration;

use frisbee_sim::{Golden, Quality, Setup, World};

use crate::seeds;

const RATE: Option<u64> = Some(200_000_000);

#[test]
fn a_lone_client_waits_for_nothing_but_the_first_announce() {
    for seed in seeds() {
        let golden = Golden::usual(6, seed);
        let mut world = World::new(seed);
        world.serve(&golden, Some(1_000_000_000));
        world.run_for(Duration::from_secs(30)).unwrap();
        world.join(&golden, &Setup::default());
        let before = world.time();
        world.run().unwrap();
        // Up to a second for the ANNOUNCE of an idle server, then 0.09 s of data.
        let took = world.finished() - before;
        assert!(took < Duration::from_millis(1150), "seed {seed}: {took:?}");
        assert!(world.overhead() <= 1.0, "seed {seed}");
    }
}

#[test]
fn a_server_that_nobody_asks_sends_one_announce_a_second() {
    let golden = Golden::usual(3, 1);
    let mut world = World::new(1);
    world.serve(&golden, None);
    world.run_for(Duration::from_secs(100)).unwrap();
    let stats = world.hosts[0].server.stats();
    assert_eq!(stats.datagrams, stats.announces);
    assert!(
        (100..=110).contains(&stats.announces),
        "{}",
        stats.announces
    );
}

#[test]
fn a_late_joiner_takes_the_second_half_with_the_others_and_then_the_first() {
    for seed in seeds() {
        let golden = Golden::usual(30, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        for _ in 0..4 {
            world.join(&golden, &Setup::default());
        }
        // 48 MiB take 2.2 s.
        world.join(
            &golden,
            &Setup {
                start: Duration::from_millis(1100),
                ..Setup::default()
            },
        );
        world.run().unwrap();
        assert!(world.overhead() < 1.65, "seed {seed}: {}", world.overhead());
        let early = world.nodes[..4]
            .iter()
            .filter_map(|node| node.finished)
            .max()
            .unwrap();
        assert!(
            early < Duration::from_millis(2400),
            "seed {seed}: the others waited: {early:?}"
        );
    }
}

#[test]
fn clients_that_trickle_in_share_the_passes() {
    for seed in seeds() {
        let golden = Golden::usual(30, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        for client in 0..8 {
            world.join(
                &golden,
                &Setup {
                    start: Duration::from_millis(client * 250),
                    ..Setup::default()
                },
            );
        }
        world.run().unwrap();
        // The last one comes at 1.75 s of 2.2: what it misses is sent once more, to all who miss it.
        assert!(world.overhead() < 2.0, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn a_client_that_dies_costs_nothing_and_its_successor_resumes() {
    for seed in seeds() {
        let golden = Golden::usual(30, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        let first = world.join(
            &golden,
            &Setup {
                down: Quality::losing(0.01),
                ..Setup::default()
            },
        );
        let successor = golden.clone();
        world.at(Duration::from_millis(1500), move |world| {
            world.leave(first);
            let second = world.join(&successor, &Setup::default());
            world.nodes[second].skipped = world.nodes[first].got.keys().copied().collect();
        });
        world.run().unwrap();
        assert!(
            !world.nodes[1].skipped.is_empty(),
            "seed {seed}: nothing was there to resume"
        );
        assert!(world.overhead() < 1.4, "seed {seed}: {}", world.overhead());
    }
}

#[test]
fn a_client_that_begins_again_gets_everything_again() {
    for seed in seeds() {
        let golden = Golden::usual(10, seed);
        let mut world = World::new(seed);
        world.serve(&golden, RATE);
        world.join(&golden, &Setup::default());
        world.run().unwrap();
        world.join(&golden, &Setup::default());
        world.run().unwrap();
        assert!(
            (1.99..2.01).contains(&world.overhead()),
            "seed {seed}: {}",
            world.overhead()
        );
        assert_eq!(world.nodes[0].received(), world.nodes[1].received());
    }
}
