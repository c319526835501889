//! What is done with the project as a whole: show it, test it, attack it, measure it, pack it.

mod bench;
mod cargo;
mod demo;
mod dist;
mod flips;
mod fuzz;
mod show;
mod sim;
mod test;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Show, test, measure and pack the project
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Image a golden disk and install it on three clients over loopback multicast, then compare
    Demo {
        /// Take this disk as the golden one instead of making one; it is only read
        #[arg(long, value_name = "FILE|DEVICE")]
        disk: Option<PathBuf>,
    },
    /// Run all checks and tests; as root, install what they need
    Test,
    /// Attack the formats with cargo-fuzz, which is installed if it is missing
    Fuzz {
        /// Minutes for each target
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
        /// Look for memory errors too (AddressSanitizer); half as fast
        #[arg(long)]
        address: bool,
        /// What to attack [default: everything]
        targets: Vec<String>,
    },
    /// Turn over every bit of a 4 MiB image: none may be accepted
    Flips {
        /// Every Nth bit only
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        every: u32,
    },
    /// Measure beside other tools, in pairs; as root
    Bench {
        /// What to measure
        #[arg(value_enum)]
        subject: Option<bench::Subject>,
        /// Pairs of runs
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
        runs: u8,
        /// Only the rows that have these words
        #[arg(long, value_name = "WORDS")]
        only: Option<String>,
        #[command(flatten)]
        of_multicast: bench::MulticastArgs,
    },
    /// Run the protocol's machines on an emulated network: random rooms, or crowds of up to a million clients
    #[command(disable_help_flag = true)]
    Sim {
        /// See `cargo xtask sim --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build release binaries, manual pages and shell completions into target/dist
    Dist,
    /// Write manual pages and completions into a directory
    #[command(hide = true)]
    Manuals {
        /// Where to
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo { disk } => demo::run(disk.as_deref()),
        Task::Test => test::run_all(),
        Task::Fuzz {
            minutes,
            address,
            targets,
        } => fuzz::run(minutes, address, &targets),
        Task::Flips { every } => flips::run(every),
        Task::Bench {
            subject,
            runs,
            only,
            of_multicast,
        } => {
            let rows = bench::Rows {
                runs: runs.into(),
                only,
            };
            bench::run(subject, &rows, &of_multicast)
        }
        Task::Sim { arguments } => sim::run(&arguments),
        Task::Dist => dist::run(),
        Task::Manuals { directory } => dist::manuals(&directory),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
