//! What one client shows: how fast, how much of a line, at which price.

use std::time::Duration;

use anyhow::Result;
use e2e::disk::Recipe;

use super::Row;
use super::network::{Batches, Network};
use super::ours::{Golden, Run, Sink, Start, copied, recipe};
use super::peers::{Peer, Sent};
use super::rooms::NOT_COMPRESSED;
use super::sample::{Sample, Samples};
use crate::show::per_second;

const LIMIT: Duration = Duration::from_secs(60);

/// Peers that are slower than 50 MB/s are not waited for.
const PEER_LIMIT: Duration = Duration::from_secs(37);

/// More than any machine reaches over a cable without a limit.
const UNLIMITED: &str = "40G";

/// Rates for the peers in bits per second, whose manuals advise to set one below what the network carries.
const PEER_RATES: [Option<u64>; 2] = [None, Some(2_000_000_000)];

/// Of a line's bytes those that may be chunk bytes, as it is aimed at.
const LIMIT_SHARE: f64 = 1024.0 / 1114.0;

const GIGABIT: u64 = 1_000_000_000;

/// So much that the beginning and the end count for little.
const LARGE: Recipe = recipe(3072, 1500);

fn start(sink: Sink, rate: Option<&str>) -> Start<'_> {
    Start {
        sink,
        rate,
        apart: Duration::ZERO,
        limit: LIMIT,
    }
}

/// With the rate that the operator knows, and with the one that the server finds.
const RATES: [(&str, Option<&str>); 2] =
    [("frisbee `--rate 40G`", Some(UNLIMITED)), ("frisbee", None)];

pub(super) fn goodput(runs: usize, peers: &[Peer], samples: &mut Samples) -> Result<()> {
    let golden = Golden::new(&LARGE, &NOT_COMPRESSED)?;
    let network = Network::cable()?;
    for _ in 0..runs {
        let mut ours = Vec::new();
        for (tool, rate) in RATES {
            let run = golden.serve(&network, start(Sink::Discard, rate))?;
            let megabytes = per_second(golden.bytes, run.slowest());
            ours.push((tool, megabytes));
            samples.push(
                Sample::new(Row::Goodput, tool, 1, 0)
                    .with("s", run.slowest())
                    .with("MB/s", megabytes),
            )?;
        }
        let mut best = 0.0_f64;
        for &peer in peers {
            for rate in PEER_RATES {
                let tool = match rate {
                    None => peer.name().into(),
                    Some(rate) => format!("{}, {} Mbit/s", peer.name(), rate / 1_000_000),
                };
                let sample = Sample::new(Row::Goodput, &tool, 1, 0);
                samples.push(match peer.send(&network, &golden, rate, PEER_LIMIT)? {
                    Sent::Done { seconds, .. } => {
                        let megabytes = per_second(golden.bytes, seconds);
                        best = best.max(megabytes);
                        sample.with("s", seconds).with("MB/s", megabytes)
                    }
                    Sent::Failed { why, .. } => sample.failed(why),
                })?;
            }
        }
        if best > 0.0 {
            for (tool, megabytes) in ours {
                let tool = format!("{tool} / the best of the others");
                let sample = Sample::new(Row::Goodput, &tool, 1, 0);
                samples.push(sample.with("times as fast", megabytes / best))?;
            }
        }
    }
    Ok(())
}

pub(super) fn install(runs: usize, samples: &mut Samples) -> Result<()> {
    let golden = Golden::new(&LARGE, &[])?;
    let network = Network::cable()?;
    for _ in 0..runs {
        let local = golden.unzip()?.as_secs_f64();
        samples.push(Sample::new(Row::Install, "imageunzip, local", 1, 0).with("s", local))?;
        for (tool, rate) in RATES {
            let run = golden.serve(&network, start(Sink::Install, rate))?;
            samples.push(
                Sample::new(Row::Install, tool, 1, 0)
                    .with("s", run.slowest())
                    .with("times as fast as imageunzip", local / run.slowest())
                    .with("sent/needed", run.blocks),
            )?;
        }
    }
    Ok(())
}

pub(super) fn share(runs: usize, samples: &mut Samples) -> Result<()> {
    let golden = Golden::new(&LARGE, &NOT_COMPRESSED)?;
    let network = Network::line(1, GIGABIT, Batches::Cut)?;
    for _ in 0..runs {
        for (tool, rate) in [("frisbee `--rate 1G`", Some("1G")), ("frisbee", None)] {
            let run = golden.serve(&network, start(Sink::Discard, rate))?;
            let share = per_second(golden.bytes, run.slowest()) * 8.0 / 1000.0;
            samples.push(
                Sample::new(Row::Share, tool, 1, 0)
                    .with("s", run.slowest())
                    .with("share of the line", share)
                    .with("of 1024/1114", share / LIMIT_SHARE)
                    .with("sent/needed", run.blocks),
            )?;
        }
    }
    Ok(())
}

pub(super) fn cpu(runs: usize, samples: &mut Samples) -> Result<()> {
    let golden = Golden::new(&LARGE, &NOT_COMPRESSED)?;
    let (cable, line) = (Network::cable()?, Network::line(1, GIGABIT, Batches::Cut)?);
    let sample = |tool: &str, seconds: f64| {
        let per_gb = seconds * 1000.0 / per_second(golden.bytes, 1.0);
        Sample::new(Row::Cpu, tool, 1, 0).with("CPU s per GB of image", per_gb)
    };
    for _ in 0..runs {
        let copied = copied(&golden.image)?;
        samples.push(sample("memcpy and Internet checksum", copied))?;
        let cases: [(&str, &Network, &str); 2] = [
            ("frisbeed, cable without a limit", &cable, UNLIMITED),
            ("frisbeed, line of 1 Gbit/s, batches cut", &line, "1G"),
        ];
        for (tool, network, rate) in cases {
            let run: Run = golden.serve(network, start(Sink::Discard, Some(rate)))?;
            let seconds = run.cpu.as_secs_f64();
            samples
                .push(sample(tool, seconds).with("times memcpy and checksum", seconds / copied))?;
        }
    }
    Ok(())
}
