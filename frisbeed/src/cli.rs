//! The command line of `frisbeed`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use frisbee_cli::exit::EXIT_CODES;
use frisbee_cli::units::parse_rate;
use frisbee_proto::Priority;

const EXAMPLES: &str = "\
Examples:
  Serve an image on the network of eth0, until stopped:
    frisbeed --interface eth0 golden.frz
  Two images at the same time, which share the rate; best on two ports, for clients without multicast:
    frisbeed --rate 900M --serve 239.192.7.1:7001=golden.frz --serve 239.192.7.2:7002=other.frz
  On a second machine, to take over if the first one falls silent:
    frisbeed --standby --interface eth0 golden.frz
  Leave room for others on a gigabit network, and end when all clients are done:
    frisbeed --rate 700M --exit-after 60 --interface eth0 golden.frz
  In the background of a network that others work on:
    frisbeed --priority low --interface eth0 golden.frz
  Does multicast work here, and why not? (frisbee-client --probe on the other machines)
    frisbeed --probe --interface eth0
  Serve an old image of Emulab to clients that accept such (--allow-legacy):
    frisbeed --interface eth0 old.ndz";

/// Multicast a disk image to any number of machines
///
/// The server needs no key: every client verifies what it receives against the key of the image's owner. It sends
/// only what clients ask for, keeps nothing about them, and may be stopped, restarted or doubled at any time.
#[derive(Debug, Parser)]
#[command(name = "frisbeed", version, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// Multicast group (or broadcast address) and UDP port; clients have to be given the same
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value_t = String::from("239.192.7.1:7001"))]
    pub(crate) group: String,

    /// Network interface to serve on, by name or address [default: where the system routes the group to]
    #[arg(short, long, value_name = "INTERFACE")]
    pub(crate) interface: Option<String>,

    /// One more image, and the group that it is served to: any number, beside IMAGE or instead of it
    #[arg(short, long, value_name = "ADDRESS:PORT=IMAGE", value_parser = parse_served)]
    pub(crate) serve: Vec<Served>,

    /// Rate never exceeded by all images and clients together, in bits per second on the wire: 900M, 2.5G [default: what network and clients keep up with]
    #[arg(short, long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,

    /// What to keep of a network that others use at the same time; without others each uses all of it
    #[arg(short, long, value_enum, default_value_t, value_name = "PRIORITY")]
    pub(crate) priority: Precedence,

    /// Time to live (hop limit) of the datagrams: 1 stays in the local network, more passes multicast routers
    #[arg(long, value_name = "HOPS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) ttl: u8,

    /// Be silent while another server of the same image is heard, and take over when it is not
    #[arg(long)]
    pub(crate) standby: bool,

    /// Clients that may be served at their own addresses at a time, of each image: those that multicast does not reach
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) unicast_lanes: u16,

    /// Serve the groups only
    #[arg(long, conflicts_with = "unicast_lanes")]
    pub(crate) no_unicast: bool,

    /// End when no request has come for this long; without it, serve until stopped
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) exit_after: Option<u64>,

    /// Serve nothing: find out with `frisbee-client --probe` on other machines whether multicast works between them,
    /// at what rate (up to --rate, or 1 Gbit/s, for some seconds) and up to which size; until stopped, or --exit-after
    #[arg(long, conflicts_with_all = ["image", "serve", "standby"])]
    pub(crate) probe: bool,

    /// Report as JSON, one object per line on stdout: start, progress, message, takeover, standby, client, finish, fail
    #[arg(long)]
    pub(crate) json: bool,

    /// Image to serve, of this project (frz) or of Emulab (ndz)
    #[arg(value_name = "IMAGE", required_unless_present_any = ["serve", "probe"])]
    pub(crate) image: Option<PathBuf>,
}

/// A [`Priority`] on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precedence {
    /// A fifth: others come first
    Low,
    /// About half
    #[default]
    Normal,
    /// Nearly all: a network that is there for this, such as a staging room
    High,
}

impl From<Precedence> for Priority {
    fn from(precedence: Precedence) -> Self {
        match precedence {
            Precedence::Low => Self::Low,
            Precedence::Normal => Self::Normal,
            Precedence::High => Self::High,
        }
    }
}

/// An image file, and the group that it is served to, as they were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) group: String,
    pub(crate) image: PathBuf,
}

fn parse_served(text: &str) -> Result<Served, String> {
    let (group, image) = text.split_once('=').ok_or(
        "an image and its group are given as ADDRESS:PORT=IMAGE, such as 239.192.7.2:7002=other.frz",
    )?;
    if image.is_empty() {
        return Err("behind the = no image is named".into());
    }
    Ok(Served {
        group: group.into(),
        image: image.into(),
    })
}

impl Cli {
    /// Every image that is to be served, the one without an option of its own first.
    pub(crate) fn served(&self) -> Vec<Served> {
        let plain = self.image.iter().map(|image| Served {
            group: self.group.clone(),
            image: image.clone(),
        });
        plain.chain(self.serve.iter().cloned()).collect()
    }
}
