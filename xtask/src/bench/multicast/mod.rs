//! frisbeed and frisbee-client beside udpcast and UFTP, in network namespaces: on a cable without a limit, and in rooms
//! behind lines that have a rate, with and without loss.

mod beside;
mod network;
mod ours;
mod peers;
mod programs;
mod rooms;
mod sample;
mod single;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Rows;
use sample::Samples;

/// What is measured of multicast. Each takes less than three minutes for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Row {
    /// One client on a cable without a limit, which discards what comes
    Goodput,
    /// The same with a client that installs, beside imageunzip of the same image
    Install,
    /// How much of a line of 1 Gbit/s carries blocks
    Share,
    /// A TCP stream on the same line of 100 Mbit/s and of 1 Gbit/s, at each priority
    Beside,
    /// Processor time of the server, beside copying and summing the same bytes
    Cpu,
    /// 1, 4 and 16 clients behind a line of 100 Mbit/s
    Rooms,
    /// 1 and 48 clients behind a line of 25 Mbit/s
    Hall,
    /// Rooms that lose whole batches of datagrams
    Bursts,
    /// 8 clients that start 3 s apart
    Late,
    /// 4 clients, one of them behind a port with a quarter of the rate
    Slow,
}

impl Row {
    fn title(self) -> &'static str {
        match self {
            Self::Goodput => "One client that discards, cable without a limit",
            Self::Install => "One client that installs, cable without a limit",
            Self::Share => "A line of 1 Gbit/s",
            Self::Beside => "A TCP stream on the same line",
            Self::Cpu => "Processor time of the server",
            Self::Rooms => "Rooms behind a line of 100 Mbit/s, single packets lost",
            Self::Hall => "A hall behind a line of 25 Mbit/s, single packets lost",
            Self::Bursts => "Rooms behind a line of 100 Mbit/s, whole batches lost",
            Self::Late => "Clients that start 3 s apart",
            Self::Slow => "One of four behind a port with a quarter of the rate",
        }
    }
}

/// What of it, and where the figures go.
#[derive(Args, Clone, Debug)]
pub(crate) struct MulticastArgs {
    /// Multicast: lose so many packets of a hundred [default: 0, 1 and 5]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=50))]
    loss: Vec<u32>,
    /// Multicast: measure this project's programs only
    #[arg(long)]
    alone: bool,
    /// Multicast: append what each run gives to this file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Multicast: measure nothing, print the tables of what was recorded
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    recorded: Option<PathBuf>,
}

impl MulticastArgs {
    fn losses(&self) -> Vec<u32> {
        match self.loss.as_slice() {
            [] => vec![0, 1, 5],
            given => given.to_vec(),
        }
    }
}

pub(crate) fn run(rows: &Rows, args: &MulticastArgs) -> Result<()> {
    println!("## Multicast\n");
    table(Row::value_variants(), rows, args)
}

/// One row of it.
pub(crate) fn beside(rows: &Rows, args: &MulticastArgs) -> Result<()> {
    table(&[Row::Beside], rows, args)
}

fn table(of: &[Row], rows: &Rows, args: &MulticastArgs) -> Result<()> {
    if let Some(file) = &args.recorded {
        sample::print(&sample::recorded(file)?);
        return Ok(());
    }
    let mut samples = Samples::new(args.record.as_deref())?;
    let wanted = |row: &&Row| rows.wants(&format!("{} ({:?})", row.title(), row));
    for &row in of.iter().filter(wanted) {
        measure(row, rows.runs, args, &mut samples)?;
    }
    samples.print();
    Ok(())
}

fn measure(row: Row, runs: usize, args: &MulticastArgs, samples: &mut Samples) -> Result<()> {
    let peers = match args.alone {
        true => &[][..],
        false => &peers::Peer::ALL[..],
    };
    match row {
        Row::Goodput => single::goodput(runs, peers, samples),
        Row::Install => single::install(runs, samples),
        Row::Share => single::share(runs, samples),
        Row::Beside => beside::beside(runs, samples),
        Row::Cpu => single::cpu(runs, samples),
        Row::Rooms => rooms::rooms(&rooms::ROOMS, runs, &args.losses(), peers, samples),
        Row::Hall => rooms::rooms(&rooms::HALL, runs, &args.losses(), peers, samples),
        Row::Bursts => rooms::rooms(&rooms::BURSTS, runs, &args.losses(), &[], samples),
        Row::Late => rooms::late(runs, samples),
        Row::Slow => rooms::slow(runs, samples),
    }
}
