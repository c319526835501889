//! A random room: everything about it comes from one number.

use std::sync::Arc;
use std::time::Duration;

use chunkfmt::parity::usual_count;

use crate::forger::{Kind, greedy_request};
use crate::golden::Golden;
use crate::invariants::{Broken, Violation};
use crate::link::{Port, Quality};
use crate::loss::Loss;
use crate::node::Setup;
use crate::world::World;

/// What happens in a room while it installs.
#[derive(Clone, Debug)]
enum Turn {
    /// The first server is gone, and back after a while, unless there is another one.
    Crash { back: Option<Duration> },
    /// A client's machine starts again, with or without what is on its disk.
    Restart { client: usize, resume: bool },
    /// A client's machine sleeps.
    Sleep { client: usize, time: Duration },
    /// A client goes away.
    Leave { client: usize },
    /// REQUESTs from everywhere for everything.
    Flood { requests: u32, gap: Duration },
}

/// The room of a seed.
#[derive(Clone, Debug)]
pub struct Room {
    seed: u64,
    /// Blocks of each object, the manifest first.
    blocks: Vec<u32>,
    parity: bool,
    ceiling: Option<u64>,
    /// When a second server starts, if there is one.
    second: Option<Duration>,
    clients: Vec<Setup>,
    skipped: Vec<Vec<u32>>,
    turns: Vec<(Duration, Turn)>,
    forgers: Vec<Kind>,
    /// How long the servers' disks take for an object at the most.
    disk: Duration,
}

/// What became of a room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// When the last client finished.
    pub finished: Duration,
    /// Stands for all that was sent, and when.
    pub trace: u64,
}

/// Why a room failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A promise was broken.
    #[error("{0}; again: cargo xtask sim --seeds {seed}..{end}", seed = .0.seed, end = .0.seed + 1)]
    Violation(#[from] Violation),
    /// A machine panicked, which it has said on standard error.
    #[error("seed {0}: a machine panicked; again: cargo xtask sim --seeds {0}..{end}", end = .0 + 1)]
    Panic(u64),
}

/// One of these with its weight.
fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[(u32, T)]) -> T {
    let total: u32 = choices.iter().map(|choice| choice.0).sum();
    let mut left = random.u32(..total);
    for &(weight, choice) in choices {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return choice,
        }
    }
    choices[0].1
}

fn micros(random: &mut fastrand::Rng, most: u64) -> Duration {
    Duration::from_micros(random.u64(..=most))
}

impl Room {
    /// The room of this seed: always the same one.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let blocks = blocks(&mut random);
        let bits = blocks.iter().map(|&blocks| u64::from(blocks)).sum::<u64>() * 8800;
        let ceiling = pick(
            &mut random,
            &[
                (1, None),
                (2, Some(20_000_000)),
                (3, Some(100_000_000)),
                (2, Some(1_000_000_000)),
            ],
        );
        // About how long the image takes; what happens, happens in three times that.
        let rate = ceiling.unwrap_or(200_000_000);
        let span = bits * 3_000_000 / rate + 30_000;
        let second = (random.u8(..4) == 0).then(|| micros(&mut random, span));
        let count = random.usize(1..=12);
        let calm = random.u8(..4) == 0;
        let clients: Vec<Setup> = (0..count)
            .map(|_| setup(&mut random, calm, rate, span))
            .collect();
        let skipped = (0..count).map(|_| skipped(&mut random, blocks.len()));
        let skipped = skipped.collect();
        let turns = (0..random.usize(..4))
            .map(|_| {
                let at = micros(&mut random, span);
                (at, turn(&mut random, count, second.is_some()))
            })
            .collect();
        let forgers = pick(&mut random, &[(4, 0), (3, 1), (1, 2)]);
        let mut forgers: Vec<Kind> = (0..forgers).map(|_| Kind::random(&mut random)).collect();
        let parity = random.bool();
        if random.u8(..4) == 0 {
            forgers.push(Kind::elsewhere(&mut random));
        }
        let disk = pick(&mut random, &[(6, 2_000), (1, 50_000), (1, 500_000)]);
        Self {
            seed,
            blocks,
            parity,
            ceiling,
            second,
            clients,
            skipped,
            turns,
            forgers,
            disk: Duration::from_micros(disk),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(&self) -> Result<Outcome, Failure> {
        match std::panic::catch_unwind(|| self.play()) {
            Ok(played) => Ok(played?),
            Err(_) => Err(Failure::Panic(self.seed)),
        }
    }

    fn play(&self) -> Result<Outcome, Violation> {
        let parity = |blocks| if self.parity { usual_count(blocks) } else { 0 };
        let golden = Golden::with_parity(&self.blocks, self.seed, parity);
        let mut world = World::new(self.seed);
        world.disk = self.disk;
        let first = world.serve(&golden, self.ceiling);
        if let Some(start) = self.second {
            let (golden, ceiling) = (Arc::clone(&golden), self.ceiling);
            world.at(start, move |world| _ = world.serve(&golden, ceiling));
        }
        for (setup, skipped) in self.clients.iter().zip(&self.skipped) {
            let place = world.join(&golden, setup);
            world.nodes[place].skipped.clone_from(skipped);
        }
        for (at, turn) in &self.turns {
            self.plan(&mut world, first, &golden, *at, turn);
        }
        let forgers = self.forgers.iter();
        world.forgers = forgers
            .map(|kind| kind.forger(Arc::clone(&golden), self.seed))
            .collect();
        world.run()?;
        let outcome = Outcome {
            finished: world
                .nodes
                .iter()
                .filter_map(|node| node.finished)
                .max()
                .unwrap_or_default(),
            trace: world.trace(),
        };
        silence(&mut world)?;
        Ok(outcome)
    }

    fn plan(
        &self,
        world: &mut World,
        first: usize,
        golden: &Arc<Golden>,
        at: Duration,
        turn: &Turn,
    ) {
        match *turn {
            Turn::Crash { back } => {
                let address = world.hosts[first].address;
                world.at(at, move |world| {
                    for host in 0..world.hosts.len() {
                        if world.hosts[host].address == address {
                            world.kill(host);
                        }
                    }
                });
                if let Some(back) = back {
                    let (golden, ceiling) = (Arc::clone(golden), self.ceiling);
                    world.at(at + back, move |world| {
                        _ = world.serve_at(&golden, ceiling, address);
                    });
                }
            }
            Turn::Restart { client, resume } => {
                world.at(at, move |world| world.restart(client, resume));
            }
            Turn::Sleep { client, time } => {
                world.at(at, move |world| world.suspend(client));
                world.at(at + time, move |world| world.wake(client));
            }
            Turn::Leave { client } => world.at(at, move |world| world.leave(client)),
            Turn::Flood { requests, gap } => {
                let mut random = fastrand::Rng::with_seed(self.seed ^ 0xf100d);
                for request in 0..requests {
                    let datagram = greedy_request(golden, &mut random);
                    world.at(at + gap * request, move |world| {
                        for host in 0..world.hosts.len() {
                            world.request(host, datagram.clone());
                        }
                    });
                }
            }
        }
    }
}

/// Odd ones: a block, a group and one more block, several chunks of different sizes, none at all.
fn blocks(random: &mut fastrand::Rng) -> Vec<u32> {
    let chunks = pick(random, &[(1, 0), (3, 1), (3, 2), (2, 3), (2, 4), (1, 6)]);
    let manifest = pick(random, &[(3, 2), (1, 1), (1, 17), (1, 40)]);
    let mut size = || match random.u8(..3) {
        0 => random.u32(1..=200),
        1 => [1, 2, 15, 16, 17, 32, 33, 128, 129, 200][random.usize(..10)],
        _ => random.u32(1..=40),
    };
    std::iter::once(manifest)
        .chain((0..chunks).map(|_| size()))
        .collect()
}

fn skipped(random: &mut fastrand::Rng, objects: usize) -> Vec<u32> {
    let share = pick(random, &[(5, 0.0), (1, 0.5), (1, 1.0)]);
    let chunks = (1..).take(objects - 1);
    chunks.filter(|_| random.f64() < share).collect()
}

fn setup(random: &mut fastrand::Rng, calm: bool, rate: u64, span: u64) -> Setup {
    let mut quality = |most: f64| {
        let loss = match random.u8(..3) {
            0 => Loss::NONE,
            1 => Loss::Random(random.f64() * most),
            _ => Loss::bursts(random.f64() * most, random.f64() * 40.0),
        };
        let rarely = |random: &mut fastrand::Rng| match random.u8(..3) {
            0 => random.f64() * 0.1,
            _ => 0.0,
        };
        let delay = pick(random, &[(3, 300), (1, 5_000), (1, 60_000)]);
        Quality {
            loss,
            delay: micros(random, delay),
            jitter: micros(random, delay / 2),
            reordered: rarely(random),
            duplicated: rarely(random),
            corrupted: rarely(random) * 0.3,
            port: (random.u8(..8) == 0).then(|| Port {
                rate: rate / random.u64(1..=10),
                buffer: random.u64(5_000..200_000),
            }),
        }
    };
    let (down, up) = if calm {
        (Quality::GOOD, Quality::GOOD)
    } else {
        (quality(0.3), quality(0.4))
    };
    let start = match random.u8(..3) {
        0 => micros(random, span),
        _ => Duration::ZERO,
    };
    let consume = pick(random, &[(4, 1_000), (2, 20_000), (1, 300_000)]);
    Setup {
        start,
        down,
        up,
        credit: pick(random, &[(3, 16 << 10), (2, 300), (1, 50), (1, 1)]),
        consume: micros(random, consume),
        trusted: Vec::new(),
    }
}

fn turn(random: &mut fastrand::Rng, clients: usize, another: bool) -> Turn {
    let client = random.usize(..clients);
    match random.u8(..6) {
        0 | 1 => Turn::Crash {
            back: (!another || random.bool()).then(|| micros(random, 3_000_000)),
        },
        2 => Turn::Restart {
            client,
            resume: random.bool(),
        },
        3 => Turn::Sleep {
            client,
            time: micros(random, 2_000_000),
        },
        4 => Turn::Leave { client },
        _ => Turn::Flood {
            requests: random.u32(1..1000),
            gap: micros(random, 1000),
        },
    }
}

/// Nobody asks any more: what was asked for is sent, and then there are ANNOUNCEs, one a second.
fn silence(world: &mut World) -> Result<(), Violation> {
    world.forgers.clear();
    world.run_for(Duration::from_secs(5))?;
    let sent = |world: &World| {
        let stats = world.hosts.iter().map(|host| *host.server.stats());
        stats.collect::<Vec<_>>()
    };
    let before = sent(world);
    world.run_for(Duration::from_secs(5))?;
    for (host, (before, after)) in before.into_iter().zip(sent(world)).enumerate() {
        let datagrams = after.datagrams - before.datagrams;
        let announces = after.announces - before.announces;
        if datagrams != announces || announces > 6 {
            return Err(world.violated(Broken::NotSilent {
                host,
                datagrams,
                announces,
            }));
        }
    }
    Ok(())
}
