//! What many clients show: whether the time stays that of one.

use std::time::Duration;

use anyhow::Result;

use super::Row;
use super::network::{Batches, Network};
use super::ours::{Golden, Sink, Start, recipe};
use super::peers::{Peer, Sent};
use super::sample::{Sample, Samples};

/// Opening chunks in all clients at once is more than two cores can do beside the network: the line is to be the limit.
pub(super) const NOT_COMPRESSED: [&str; 2] = ["--codec", "none"];

/// A room that is measured.
pub(super) struct Size {
    row: Row,
    clients: &'static [usize],
    /// Bits per second of the line.
    rate: u64,
    /// The same for `--rate`.
    ceiling: &'static str,
    ext_mib: u64,
    data_mib: u64,
    batches: Batches,
}

pub(super) const ROOMS: Size = Size {
    row: Row::Rooms,
    clients: &[1, 4, 16],
    rate: 100_000_000,
    ceiling: "100M",
    ext_mib: 192,
    data_mib: 90,
    batches: Batches::Cut,
};

/// The two cores have to carry each packet 48 times.
pub(super) const HALL: Size = Size {
    row: Row::Hall,
    clients: &[1, 48],
    rate: 25_000_000,
    ceiling: "25M",
    ext_mib: 96,
    data_mib: 25,
    batches: Batches::Cut,
};

pub(super) const BURSTS: Size = Size {
    row: Row::Bursts,
    batches: Batches::Whole,
    ..ROOMS
};

/// Times as long as the line needs after which a peer hangs.
const PATIENCE: f64 = 4.0;

impl Size {
    fn golden(&self) -> Result<Golden> {
        Golden::new(&recipe(self.ext_mib, self.data_mib), &NOT_COMPRESSED)
    }

    /// What the peers are told: as much as the line carries, less what they do not count.
    fn peer_rate(&self) -> u64 {
        self.rate / 100 * 97
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn least_seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 * 8.0 / rate as f64
}

pub(super) fn rooms(
    size: &Size,
    runs: usize,
    losses: &[u32],
    peers: &[Peer],
    samples: &mut Samples,
) -> Result<()> {
    let golden = size.golden()?;
    let least = least_seconds(golden.bytes, size.rate);
    let limit = Duration::from_secs_f64(10.0 + PATIENCE * least);
    for _ in 0..runs {
        for &loss in losses {
            let mut of_one = None;
            let mut peers_of_one: Vec<Option<f64>> = vec![None; peers.len()];
            for &clients in size.clients {
                let network = Network::line(clients, size.rate, size.batches)?;
                network.lose(loss)?;
                let start = Start {
                    sink: Sink::Install,
                    rate: Some(size.ceiling),
                    apart: Duration::ZERO,
                    limit: limit * 3,
                };
                let run = golden.serve(&network, start)?;
                let one = *of_one.get_or_insert(run.slowest());
                let of_peer = |tool: &str| Sample::new(size.row, tool, clients, loss);
                samples.push(
                    of_peer("frisbee")
                        .with("s", run.slowest())
                        .with("time / time of 1", run.slowest() / one)
                        .with("bytes sent per byte", run.bytes)
                        .with("blocks sent/needed", run.blocks)
                        .with("dropped by busy clients", shown(run.dropped)),
                )?;
                for (&peer, of_one) in peers.iter().zip(&mut peers_of_one) {
                    let sample = of_peer(peer.name());
                    samples.push(
                        match peer.send(&network, &golden, Some(size.peer_rate()), limit)? {
                            Sent::Done { seconds, bytes } => {
                                let one = *of_one.get_or_insert(seconds);
                                sample
                                    .with("s", seconds)
                                    .with("time / time of 1", seconds / one)
                                    .with("bytes sent per byte", bytes)
                            }
                            Sent::Failed { why, bytes } => {
                                sample.with("bytes sent per byte", bytes).failed(why)
                            }
                        },
                    )?;
                }
            }
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn shown(count: u64) -> f64 {
    count as f64
}

/// Clients that start one after the other. The last one needs everything that is sent after it has come, so the server
/// has to send for as long as it takes from the first start, and from then on the whole image.
pub(super) fn late(runs: usize, samples: &mut Samples) -> Result<()> {
    const CLIENTS: usize = 8;
    const APART: u32 = 3;
    let golden = Golden::new(&recipe(384, 250), &NOT_COMPRESSED)?;
    for _ in 0..runs {
        let mut alone = 0.0;
        for clients in [1, CLIENTS] {
            let network = Network::line(clients, ROOMS.rate, Batches::Cut)?;
            let start = Start {
                sink: Sink::Discard,
                rate: Some(ROOMS.ceiling),
                apart: Duration::from_secs(APART.into()),
                limit: Duration::from_secs(100),
            };
            let run = golden.serve(&network, start)?;
            if clients == 1 {
                alone = run.slowest();
            }
            let last = f64::from(APART) * f64::from(u32::try_from(clients)? - 1);
            let least = 1.0 + (last / alone).min(1.0);
            samples.push(
                Sample::new(Row::Late, "frisbee", clients, 0)
                    .with("s of the slowest", run.slowest())
                    .with("its time / time of 1", run.slowest() / alone)
                    .with("blocks sent/needed by one", run.blocks)
                    .with("least possible", least)
                    .with("sent / least", run.blocks / least),
            )?;
        }
    }
    Ok(())
}

/// Of what is sent for all, a client behind a port with a quarter of the rate gets a quarter. So the server has to send
/// it the rest when the others have ended: 1.75 images in all.
pub(super) fn slow(runs: usize, samples: &mut Samples) -> Result<()> {
    const LEAST: f64 = 1.75;
    let golden = ROOMS.golden()?;
    for _ in 0..runs {
        let mut even = 0.0;
        for slow in [false, true] {
            let network = Network::line(4, ROOMS.rate, Batches::Cut)?;
            if slow {
                network.slow_port(3, ROOMS.rate / 4)?;
            }
            let start = Start {
                sink: Sink::Install,
                rate: Some(ROOMS.ceiling),
                apart: Duration::ZERO,
                limit: Duration::from_secs(150),
            };
            let run = golden.serve(&network, start)?;
            let others = run.seconds.iter().take(3).copied().fold(0.0, f64::max);
            let tool = if slow {
                "frisbee, one slow port"
            } else {
                "frisbee, all alike"
            };
            if !slow {
                even = others;
            }
            let least = if slow { LEAST } else { 1.0 };
            samples.push(
                Sample::new(Row::Slow, tool, 4, 0)
                    .with("s of the three", others)
                    .with("theirs / all alike", others / even)
                    .with(
                        "s of the fourth",
                        run.seconds.last().copied().unwrap_or(0.0),
                    )
                    .with("blocks sent/needed by one", run.blocks)
                    .with("sent / least", run.blocks / least),
            )?;
        }
    }
    Ok(())
}
