//! What `cargo xtask sim` runs: random rooms that check, or crowds that measure.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use frisbee_cli::units::parse_rate;
use frisbee_sim::{Crowd, Loss, Report, Room};
use nix::time::{ClockId, clock_gettime};

/// Run the protocol's machines on an emulated network
///
/// Crowds print what was sent per block that was needed, and what an ideal code would have sent.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim")]
struct Cli {
    /// Check random rooms: what has to hold, holds in each of them
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, conflicts_with = "clients")]
    seeds: Option<Range<u64>>,
    /// Measure a crowd of so many; several make a table
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    clients: Vec<u32>,
    /// Datagrams that each client loses, as 1% or 0.01; several make a table
    #[arg(long, value_delimiter = ',', default_value = "1%", value_parser = parse_share)]
    loss: Vec<f64>,
    /// Lose them in bursts of so many on average (Gilbert-Elliott)
    #[arg(long, value_name = "DATAGRAMS")]
    burst: Option<f64>,
    /// Chunks of the image
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    chunks: u32,
    /// Blocks of 1 KiB in each
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    blocks: u32,
    /// Rate of the network
    #[arg(long, default_value = "1G", value_parser = parse_rate)]
    rate: u64,
    /// Milliseconds from the server to a client, and back
    #[arg(long, value_name = "MS", default_value_t = 1.0)]
    delay: f64,
    /// Clients start within so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    starts: f64,
    /// Milliseconds for which a client looks at its disk before it asks for more than the manifest
    #[arg(long, value_name = "MS", default_value_t = 2000.0)]
    look: f64,
    /// Seed of a crowd
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("give a range, as 0..2000")?;
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no number"));
    Ok(number(first)?..number(end)?)
}

fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number
        .parse::<f64>()
        .map_err(|_| format!("'{text}' is no share, as 1% is"))?
        / unit;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("{text} is not from 0 to less than 100 %"))
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.seeds {
        Some(seeds) => check(seeds.clone()),
        None => measure(&cli),
    }
}

fn check(seeds: Range<u64>) -> Result<()> {
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        if let Err(failure) = Room::new(seed).run() {
            println!("{failure}");
            failed.push(seed);
        }
    }
    ensure!(failed.is_empty(), "these seeds failed: {failed:?}");
    println!(
        "{} rooms, none failed",
        seeds.end.saturating_sub(seeds.start)
    );
    Ok(())
}

fn measure(cli: &Cli) -> Result<()> {
    ensure!(
        !cli.clients.is_empty(),
        "say what to do: --seeds or --clients"
    );
    let milliseconds = |given: f64| Duration::try_from_secs_f64(given / 1000.0);
    let delay = milliseconds(cli.delay).context("--delay")?;
    ensure!(!delay.is_zero(), "--delay: a network takes some time");
    println!("{}", Report::HEADER);
    for &loss in &cli.loss {
        for &clients in &cli.clients {
            let crowd = Crowd {
                clients,
                loss: match cli.burst {
                    Some(length) => Loss::bursts(loss, length),
                    None => Loss::Random(loss),
                },
                chunks: cli.chunks,
                blocks: cli.blocks,
                rate: cli.rate,
                delay,
                starts: milliseconds(cli.starts).context("--starts")?,
                look: milliseconds(cli.look).context("--look")?,
                seed: cli.seed,
                threads: cli.threads,
            };
            let begin = Instant::now();
            let report = crowd.run(processor_time)?;
            println!("{}", report.row());
            let took = begin.elapsed().as_secs_f64();
            eprintln!(
                "simulated in {took:.1} s with at most {} MiB; {:.0} ns for each of {} deliveries",
                memory()?,
                took * 1e9 / report.deliveries.max(1) as f64,
                report.deliveries,
            );
        }
    }
    Ok(())
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Most memory that this process has had, in MiB.
fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: u64 = kib
        .context("/proc/self/status has no VmHWM")?
        .trim()
        .parse()?;
    Ok(kib / 1024)
}
