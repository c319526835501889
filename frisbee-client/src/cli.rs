//! The command line of `frisbee-client`.

use std::path::PathBuf;

use clap::Parser;
use frisbee_cli::exit::EXIT_CODES;
use imageunzip::unzip::Free;
use uuid::Uuid;

const EXAMPLES: &str = "Examples:
  frisbee-client --trust owner.pub --key content.key /dev/sdb
  frisbee-client --group 239.192.7.1:7001 --interface eth0 --trust owner.pub --key content.key --yes /dev/sda
  frisbee-client --timeout 60 --free zero --yes /dev/sda
  frisbee-client --uuid 8d0ca7b2-1f5e-4a3a-9a52-6a4b1b1c9d10 disk.img

The client takes the first image announced on the group that a trusted owner has signed. The target is not touched
before the image's manifest is verified and fits it; it does not boot before everything is on it.";

/// Receive a multicast image and install it onto a disk or into a file
#[derive(Debug, Parser)]
#[command(name = "frisbee-client", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Multicast group and UDP port that the server was given
    #[arg(
        short,
        long,
        value_name = "ADDRESS:PORT",
        default_value = "239.192.7.1:7001"
    )]
    pub(crate) group: String,
    /// Network interface, by name or IPv4 address [default: where the system routes the group to]
    #[arg(short, long, value_name = "INTERFACE")]
    pub(crate) interface: Option<String>,
    /// Public key of an owner whose images are accepted [default: all of /etc/frisbee/trust.d/*.pub]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) trust: Vec<PathBuf>,
    /// Accept an unsigned image: anybody on the network may have made it
    #[arg(long)]
    pub(crate) allow_unsigned: bool,
    /// Content key of an encrypted image
    #[arg(short, long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Accept this image only
    #[arg(long, value_name = "UUID")]
    pub(crate) uuid: Option<Uuid>,
    /// Accept no image older than this epoch
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min_epoch: u64,
    /// What to do with the disk's free space
    #[arg(long, value_enum, default_value_t)]
    pub(crate) free: Free,
    /// Overwrite the target without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Number of threads that decompress [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Memory in MiB for chunks on their way to the disk
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    pub(crate) memory: u32,
    /// Give up when nothing useful has come for this long [default: wait for ever]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) timeout: Option<u64>,
    /// Print JSON events to stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// The disk, partition or file to write
    pub(crate) target: PathBuf,
}
