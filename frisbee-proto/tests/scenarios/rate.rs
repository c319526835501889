//! The rate: found, shared, and not brought down by what it cannot help.

use std::sync::Arc;
use std::time::Duration;

use frisbee_proto::Priority;
use frisbee_sim::{Bottleneck, Golden, Port, Quality, Setup, World};

use crate::seeds;

const MBIT: u64 = 1_000_000;
/// Blocks of a chunk, and its bytes on the wire.
const BLOCKS: u32 = 1600;
const CHUNK: u64 = 1138 * BLOCKS as u64;

/// An image that takes so long at this rate, at least ten chunks.
fn image(rate: u64, seconds: u64) -> Arc<Golden> {
    let chunks = rate / 8 * seconds / CHUNK;
    Golden::uniform(usize::try_from(chunks.max(10)).unwrap(), BLOCKS, 1)
}

/// What passed the bottleneck in some time, as parts of what it carries.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    /// Of the server, without what was dropped.
    ours: f64,
    /// Of TCP streams.
    streams: f64,
    /// Of the server's datagrams those that were dropped.
    dropped: f64,
}

/// A server and clients behind a link of this rate.
fn link(seed: u64, rate: u64, queue: Duration) -> World {
    let mut world = World::new(seed);
    world.bottleneck = Some(Bottleneck::of(rate, queue));
    world
}

fn watch(world: &mut World, rate: u64, time: Duration) -> Shares {
    let counted = |world: &World| {
        let (stats, bottleneck) = (
            world.hosts[0].server.stats(),
            world.bottleneck.as_ref().unwrap(),
        );
        let figures = [
            stats.datagrams,
            stats.wire_bytes,
            bottleneck.dropped,
            bottleneck.streamed(),
        ];
        figures.map(|figure| figure as f64)
    };
    let before = counted(world);
    world.run_for(time).unwrap();
    let after = counted(world);
    let [datagrams, bytes, dropped, streamed] = std::array::from_fn(|i| after[i] - before[i]);
    let carried = rate as f64 / 8.0 * time.as_secs_f64();
    let dropped = dropped / datagrams.max(1.0);
    Shares {
        ours: bytes * (1.0 - dropped) / carried,
        streams: streamed / carried,
        dropped,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn alone_it_finds_nine_tenths_of_any_link() {
    let cases = [
        (10, 50, 5, 10),
        (10, 500, 5, 10),
        (100, 5, 3, 5),
        (100, 50, 3, 5),
        (1000, 2, 2, 2),
        (1000, 20, 2, 2),
        (10_000, 2, 3, 1),
    ];
    for (mbit, queue, start, time) in cases {
        let rate = mbit * MBIT;
        let golden = image(rate, start + time + 1);
        let mut world = link(1, rate, millis(queue));
        world.serve(&golden, None);
        let setup = Setup {
            credit: 64 << 10,
            consume: Duration::from_micros(100),
            ..Setup::default()
        };
        world.join(&golden, &setup);
        let begin = watch(&mut world, rate, secs(start));
        let shares = watch(&mut world, rate, secs(time));
        println!("{mbit} Mbit/s, {queue} ms: {begin:?}, {shares:?}");
        assert!(shares.ours >= 0.9, "{mbit} Mbit/s, {queue} ms: {shares:?}");
        assert!(
            shares.dropped <= 0.01,
            "{mbit} Mbit/s, {queue} ms: {shares:?}"
        );
        assert!(
            begin.dropped <= 0.25,
            "{mbit} Mbit/s, {queue} ms: {begin:?}"
        );
    }
}

#[test]
fn random_loss_does_not_bring_it_down() {
    for (loss, clients) in [(0.01, 1), (0.01, 8), (0.05, 1), (0.05, 8)] {
        let rate = 100 * MBIT;
        let golden = image(rate, 12);
        let mut world = link(1, rate, millis(20));
        world.serve(&golden, None);
        let setup = Setup {
            down: Quality::losing(loss),
            ..Setup::default()
        };
        for _ in 0..clients {
            world.join(&golden, &setup);
        }
        let begin = watch(&mut world, rate, secs(4));
        let shares = watch(&mut world, rate, secs(4));
        println!("{clients} clients, loss {loss}: {begin:?}, {shares:?}");
        assert!(
            shares.ours >= 0.9,
            "{clients} clients, loss {loss}: {shares:?}"
        );
        assert!(
            shares.dropped <= 0.02,
            "{clients} clients, loss {loss}: {shares:?}"
        );
    }
}

/// The shares of a server that starts after so many seconds and of a stream that starts after so many, when both have
/// been there for some time.
fn beside(rate: u64, queue: u64, priority: Priority, starts: (u64, u64)) -> Shares {
    let golden = image(rate, 80);
    let mut world = link(1, rate, millis(queue));
    world.priority = priority;
    let served = Arc::clone(&golden);
    world.at(secs(starts.0), move |world| {
        world.serve(&served, None);
    });
    world.at(secs(starts.1), World::stream);
    world.join(&golden, &Setup::default());
    world.run_for(secs(starts.0.max(starts.1) + 15)).unwrap();
    watch(&mut world, rate, secs(25))
}

#[test]
fn a_tcp_stream_keeps_a_third_and_more_or_less_as_the_priority_says() {
    for (mbit, queue) in [(10, 100), (100, 20), (100, 100)] {
        for starts in [(0, 10), (10, 0)] {
            let of = |priority| {
                let shares = beside(mbit * MBIT, queue, priority, starts);
                println!("{mbit} Mbit/s, {queue} ms, {starts:?}, {priority:?}: {shares:?}");
                shares
            };
            let [low, normal, high] = [Priority::Low, Priority::Normal, Priority::High].map(of);
            let case = format!("{mbit} Mbit/s, {queue} ms, {starts:?}");
            assert!(normal.streams >= 0.3, "{case}: {normal:?}");
            assert!(normal.ours >= 0.3, "{case}: {normal:?}");
            assert!(low.streams >= 0.5, "{case}: {low:?}");
            assert!(low.ours >= 0.04, "{case}: {low:?}");
            assert!(high.ours >= 0.6, "{case}: {high:?}");
        }
    }
}

/// When the others have finished beside one that is behind such a port, and what was sent for each block of the image.
fn others(seed: u64, ceiling: Option<u64>, port: Option<Port>) -> (Duration, f64) {
    let rate = 100 * MBIT;
    let golden = image(rate, 10);
    let mut world = link(seed, rate, millis(20));
    world.serve(&golden, ceiling);
    let sick = Setup {
        down: Quality {
            port,
            ..Quality::GOOD
        },
        ..Setup::default()
    };
    world.join(&golden, &sick);
    for _ in 0..3 {
        world.join(&golden, &Setup::default());
    }
    world.run().unwrap();
    let finished = world.nodes[1..].iter().map(|node| node.finished.unwrap());
    (finished.max().unwrap(), world.overhead())
}

#[test]
fn one_behind_a_quarter_of_the_rate_costs_the_others_little() {
    // With a large buffer its reports tell of what was sent long ago.
    let cases = [(None, 128 << 10), (Some(99 * MBIT), 256 << 10)];
    for (seed, (ceiling, buffer)) in seeds().flat_map(|seed| cases.map(|case| (seed, case))) {
        let port = Port {
            rate: 25 * MBIT,
            buffer,
        };
        let (alone, _) = others(seed, ceiling, None);
        let (beside, sent) = others(seed, ceiling, Some(port));
        let case = format!(
            "seed {seed}, ceiling {ceiling:?}: {beside:?} instead of {alone:?}, sent {sent:.3}"
        );
        println!("{case}");
        assert!(beside <= alone.mul_f64(1.05), "{case}");
        // It gets a quarter of what is sent to all, as far as it has memory for it.
        assert!(sent <= 2.1, "{case}");
    }
}

#[test]
fn slow_disks_are_waited_for_and_nothing_is_sent_in_vain() {
    let rate = 100 * MBIT;
    let disk = 40 * MBIT;
    let chunks = 40;
    let golden = Golden::uniform(chunks, BLOCKS, 1);
    let mut world = link(1, rate, millis(20));
    world.serve(&golden, None);
    let chunk = Duration::from_secs_f64(f64::from(BLOCKS) * 8192.0 / disk as f64);
    let setup = Setup {
        credit: 4 * BLOCKS,
        consume: chunk,
        ..Setup::default()
    };
    for _ in 0..4 {
        world.join(&golden, &setup);
    }
    world.run().unwrap();
    let least = chunk * u32::try_from(chunks).unwrap();
    println!(
        "{:?} of {least:?}, sent {:.3}",
        world.finished(),
        world.overhead()
    );
    assert!(
        world.finished() <= least.mul_f64(1.2),
        "{:?} of {least:?}",
        world.finished()
    );
    assert!(world.overhead() <= 1.1, "{}", world.overhead());
}

#[test]
fn a_hall_reports_no_more_than_a_room() {
    let rate = 20 * MBIT;
    let golden = image(rate, 9);
    let mut world = link(1, rate, millis(50));
    world.serve(&golden, None);
    for _ in 0..300 {
        world.join(&golden, &Setup::default());
    }
    world.run_for(secs(4)).unwrap();
    let before = world.hosts[0].server.stats().requests;
    let shares = watch(&mut world, rate, secs(4));
    let requests = world.hosts[0].server.stats().requests - before;
    println!("{shares:?}, {requests} REQUESTs in 4 s");
    assert!(shares.ours >= 0.9, "{shares:?}");
    assert!(requests <= 6000, "{requests}");
}
