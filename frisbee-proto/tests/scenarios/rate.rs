//! The rate: found, shared, and not brought down by what it cannot help.

use std::sync::Arc;
use std::time::Duration;

use frisbee_proto::Priority;

use crate::golden::Golden;
use crate::link::{Pipe, Quality};
use crate::tcp::Tcp;
use crate::world::{Setup, World};

const MBIT: u64 = 1_000_000;

/// An image that takes so long at this rate, at least 10 chunks.
fn image(rate: u64, seconds: u64) -> Arc<Golden> {
    let chunks = rate / 8 * seconds / 1_650_000;
    Golden::usual(usize::try_from(chunks.max(10)).unwrap(), 1)
}

fn watch(world: &mut World, seconds: u64) -> Vec<(u64, u64, u64)> {
    let mut before = (0, 0);
    (0..seconds * 5)
        .map(|_| {
            world.run_for(Duration::from_millis(200));
            let (sent, arrived) = (
                world.hosts[0].server.stats().wire_bytes,
                world
                    .streams
                    .iter()
                    .map(|tcp| tcp.arrived * Tcp::WIRE)
                    .sum::<u64>(),
            );
            let figures = (
                world.hosts[0].server.rate() / 1000,
                (sent - before.0) * 8 * 5 / 1000,
                (arrived - before.1) * 8 * 5 / 1000,
            );
            before = (sent, arrived);
            figures
        })
        .collect()
}

#[test]
fn look() {
    let rate: u64 = std::env::var("RATE").map_or(100, |rate| rate.parse().unwrap()) * MBIT;
    let millis: u64 = std::env::var("BUFFER").map_or(50, |it| it.parse().unwrap());
    let clients: usize = std::env::var("CLIENTS").map_or(1, |it| it.parse().unwrap());
    let loss: f64 = std::env::var("LOSS").map_or(0.0, |it| it.parse().unwrap());
    let tcp: u64 = std::env::var("TCP").map_or(0, |it| it.parse().unwrap());
    let seconds: u64 = std::env::var("SECONDS").map_or(20, |it| it.parse().unwrap());
    let ceiling: Option<u64> = std::env::var("CEILING")
        .ok()
        .map(|it| it.parse::<u64>().unwrap() * MBIT);
    let golden = image(rate, seconds);
    let mut world = World::new(1);
    world.share(rate, rate / 8 * millis / 1000);
    world.serve(&golden, ceiling);
    let setup = Setup {
        down: Quality::losing(loss),
        ..Setup::default()
    };
    for _ in 0..clients {
        world.join(&golden, &setup);
    }
    world.at(Duration::from_secs(tcp), move |world| {
        if tcp < 100 {
            world.stream();
        }
    });
    for (rate, sent, tcp) in watch(&mut world, seconds) {
        println!("{rate:>9} {sent:>9} {tcp:>9}");
    }
    let _ = (Pipe { rate, buffer: 0 }, Priority::Low);
}
