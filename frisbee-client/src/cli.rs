//! The command line of `frisbee-client`.

use std::path::PathBuf;

use clap::Parser;
use frisbee_cli::exit::EXIT_CODES;
use frisbee_cli::policy::{KeyOptions, LegacyOptions, TrustOptions, Wanted};
use imageunzip::{InstallArgs, TargetArgs};

const EXAMPLES: &str = "Examples:
  frisbee-client --trust owner.pub --key content.key /dev/sdb
  frisbee-client --group 239.192.7.1:7001 --interface eth0 --trust owner.pub --key content.key --yes /dev/sda
  frisbee-client --timeout 60 --free zero --yes /dev/sda
  frisbee-client --yes --disk nvme,smallest
  frisbee-client --uuid 8d0ca7b2-1f5e-4a3a-9a52-6a4b1b1c9d10 disk.img
  frisbee-client --group 239.192.7.2:7001 --base-group 239.192.7.1:7001 --yes /dev/sda
  frisbee-client --probe --interface eth0
  frisbee-client --unicast server.example --trust owner.pub --key content.key --yes /dev/sda
  frisbee-client --allow-legacy --allow-unsigned --yes /dev/sda
  frisbee-client --trust owner.pub /dev/null

The client takes the first image announced on the group that a trusted owner has signed. The target is not touched
before the image's manifest is verified and fits it; it does not boot before everything is on it.
The last but one takes whatever is announced first, also an Emulab image. The last one receives and verifies all of an
image and keeps nothing.";

/// Receive a multicast image and install it onto a disk or into a file
#[derive(Debug, Parser)]
#[command(name = "frisbee-client", version, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(mut_arg("target", |target| target.required_unless_present_any(["disk", "list_disks", "probe"])))]
pub struct Cli {
    /// Multicast group (or broadcast address) and UDP port that the server was given
    #[arg(
        short,
        long,
        value_name = "ADDRESS:PORT",
        default_value = "239.192.7.1:7001"
    )]
    pub(crate) group: String,
    /// Network interface, by name or address [default: where the system routes the group to]
    #[arg(short, long, value_name = "INTERFACE")]
    pub(crate) interface: Option<String>,
    /// Take the image from this server by unicast, without any group: for a single machine, or a network without
    /// multicast
    #[arg(short, long, value_name = "SERVER[:PORT]", conflicts_with_all = ["group", "interface", "fallback"])]
    pub(crate) unicast: Option<String>,
    /// Ask this server for the image by unicast when nothing useful comes from the group [default: the server that was
    /// heard last, if any was]
    #[arg(long, value_name = "SERVER[:PORT]")]
    pub(crate) fallback: Option<String>,
    /// Time without anything useful from the group after which unicast is asked for; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(crate) fallback_after: u64,
    /// For a delta: a group on which its base is sent; repeated for a delta of a delta, the nearest base first
    /// [default: the base must be what the target holds]
    #[arg(short, long, value_name = "ADDRESS:PORT")]
    pub(crate) base_group: Vec<String>,
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) legacy: LegacyOptions,
    #[command(flatten)]
    pub(crate) install: InstallArgs,
    /// Give up when nothing useful has come for this long [default: wait for ever]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) timeout: Option<u64>,
    /// Install nothing: find out with `frisbeed --probe` on another machine whether multicast works between the two, and
    /// if not, why. With the address of that machine more can be told if nothing comes of it
    #[arg(long, value_name = "SERVER", num_args = 0..=1, require_equals = true, conflicts_with_all = ["target", "disk"])]
    pub(crate) probe: Option<Option<String>>,
    /// Print JSON events to stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) choice: TargetArgs,
    /// What has been chosen.
    #[arg(skip)]
    pub(crate) target: PathBuf,
}
