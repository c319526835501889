//! The rate: found, shared, and not brought down by what it cannot help.

use std::sync::Arc;
use std::time::Duration;

use frisbee_proto::Priority;
use frisbee_sim::{Bottleneck, Golden, Quality, Setup, World};

/// Wire bytes of a chunk.
const CHUNK: u64 = 1_780_000;
const MBIT: u64 = 1_000_000;

/// An image that takes so long at this rate, at least 10 chunks.
fn image(rate: u64, seconds: u64) -> Arc<Golden> {
    let chunks = rate / 8 * seconds / CHUNK;
    Golden::uniform(usize::try_from(chunks.max(10)).unwrap(), 1600, 1)
}

/// What was sent and what streamed in a time, in bits per second.
fn watch(world: &mut World, time: Duration) -> (u64, u64) {
    let counted = |world: &World| {
        let sent = world.hosts[0].server.stats().wire_bytes;
        let streamed = world.bottleneck.as_ref().map_or(0, Bottleneck::streamed);
        (sent, streamed)
    };
    let before = counted(world);
    world.run_for(time).unwrap();
    let after = counted(world);
    let rate = |before: u64, after: u64| (after - before) * 8_000 / time.as_millis() as u64;
    (rate(before.0, after.0), rate(before.1, after.1))
}

#[test]
fn look() {
    let rate: u64 = std::env::var("RATE").map_or(100, |rate| rate.parse().unwrap()) * MBIT;
    let millis: u64 = std::env::var("BUFFER").map_or(50, |it| it.parse().unwrap());
    let clients: usize = std::env::var("CLIENTS").map_or(1, |it| it.parse().unwrap());
    let loss: f64 = std::env::var("LOSS").map_or(0.0, |it| it.parse().unwrap());
    let tcp: u64 = std::env::var("TCP").map_or(100, |it| it.parse().unwrap());
    let seconds: u64 = std::env::var("SECONDS").map_or(20, |it| it.parse().unwrap());
    let priority = std::env::var("PRIORITY").unwrap_or_default();
    let ceiling: Option<u64> = std::env::var("CEILING")
        .ok()
        .map(|it| it.parse::<u64>().unwrap() * MBIT);
    let golden = image(rate, seconds + 1);
    let mut world = World::new(1);
    world.priority = match &*priority {
        "low" => Priority::Low,
        "high" => Priority::High,
        _ => Priority::Normal,
    };
    world.bottleneck = Some(Bottleneck::of(rate, Duration::from_millis(millis)));
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
    for _ in 0..seconds * 5 {
        let (sent, tcp) = watch(&mut world, Duration::from_millis(200));
        println!("{:>9} {:>9} {:>9} {}", world.hosts[0].server.rate() / 1000, sent / 1000, tcp / 1000, world.bottleneck.as_ref().unwrap().dropped);
    }
}
