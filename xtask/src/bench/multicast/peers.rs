//! udpcast and UFTP, each tuned as its manual says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::background::Background;
use e2e::command::system;
use e2e::ranges;
use e2e::room::INTERFACE;

use super::network::Network;
use super::ours::Golden;
use super::programs::ends;
use crate::show::ratio;

/// Another program that sends a file to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Udpcast,
    Uftp,
}

/// What became of a transfer.
pub(super) enum Sent {
    /// Seconds until the sender knew that everybody has it, and bytes of frames sent per byte of the file.
    Done { seconds: f64, bytes: f64 },
    /// Why not, and what was sent until then.
    Failed { why: String, bytes: f64 },
}

/// The receive and send buffer that UFTP's manual advises for fast networks.
const UFTP_BUFFER: &str = "4194304";

impl Peer {
    pub(super) const ALL: [Self; 2] = [Self::Udpcast, Self::Uftp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udpcast => "udpcast",
            Self::Uftp => "UFTP",
        }
    }

    /// Sends the image to all clients, at most at so many bits per second on the wire; what has not come to its end
    /// at `limit` is killed. The receivers write to memory, or discard if they can.
    pub(super) fn send(
        self,
        network: &Network,
        golden: &Golden,
        rate: Option<u64>,
        limit: Duration,
    ) -> Result<Sent> {
        let targets: Vec<PathBuf> = (0..network.clients.len())
            .map(|client| golden.target(client))
            .collect();
        let mut receivers = Vec::new();
        for (number, (machine, target)) in network.clients.iter().zip(&targets).enumerate() {
            fs::create_dir(target)?;
            let receiver = self.receiver(number, target)?;
            receivers.push(Background::start(machine.netns.command(&receiver)?)?);
        }
        // So that they are there when the sender looks for them.
        sleep(Duration::from_millis(500));
        let sent = network.sent()?;
        let began = Instant::now();
        let sender = self.sender(&golden.image, targets.len(), rate)?;
        let sender = Background::start(network.server.netns.command(&sender)?)?;
        let ended = ends(vec![sender], limit)?.into_iter().flatten().next();
        let bytes = ratio(network.sent()? - sent, golden.bytes);
        let wanted = ranges::hash(&golden.image)?;
        let has = |target: &&PathBuf| {
            ranges::hash(&target.join("file")).is_ok_and(|found| found == wanted)
        };
        let have = targets.iter().filter(has).count();
        drop(receivers);
        for target in &targets {
            fs::remove_dir_all(target)?;
        }
        let all = targets.len();
        Ok(match ended {
            Some((at, outcome)) if outcome.status.success() && have == all => Sent::Done {
                seconds: (at - began).as_secs_f64(),
                bytes,
            },
            Some((_, outcome)) => Sent::Failed {
                why: format!("{}, {have} of {all} have the file", outcome.status),
                bytes,
            },
            None => Sent::Failed {
                why: format!(
                    "hung after {} s, {have} of {all} have the file",
                    limit.as_secs()
                ),
                bytes,
            },
        })
    }

    fn receiver(self, number: usize, target: &Path) -> Result<Command> {
        Ok(match self {
            Self::Udpcast => {
                let mut receiver = system("udp-receiver")?;
                receiver.args(["--interface", INTERFACE, "--nokbd", "--file"]);
                receiver.arg(target.join("file"));
                receiver
            }
            Self::Uftp => {
                let mut receiver = system("uftpd")?;
                receiver.args(["-d", "-q", "-I", INTERFACE, "-B", UFTP_BUFFER, "-U"]);
                receiver.arg(uftp_id(number)).arg("-D").arg(target);
                receiver
            }
        })
    }

    fn sender(self, file: &Path, receivers: usize, rate: Option<u64>) -> Result<Command> {
        Ok(match self {
            Self::Udpcast => {
                let mut sender = system("udp-sender")?;
                sender.args(["--interface", INTERFACE, "--nokbd", "--full-duplex"]);
                sender.args(["--min-receivers", &receivers.to_string(), "--file"]);
                sender.arg(file);
                if let Some(rate) = rate {
                    sender.args(["--max-bitrate", &format!("{}k", rate / 1000)]);
                }
                sender
            }
            Self::Uftp => {
                let mut sender = system("uftp")?;
                let rate = rate.map_or("-1".to_owned(), |rate| (rate / 1000).to_string());
                let ids: Vec<String> = (0..receivers).map(uftp_id).collect();
                sender.args([
                    "-I",
                    INTERFACE,
                    "-B",
                    UFTP_BUFFER,
                    "-b",
                    "1400",
                    "-R",
                    &rate,
                ]);
                // A closed group begins as soon as all are there.
                sender.args(["-r", "0.1:0.01:1", "-D", "file", "-H", &ids.join(",")]);
                sender.arg(file);
                sender
            }
        })
    }
}

/// The name of a client in UFTP.
fn uftp_id(number: usize) -> String {
    format!("0x{:08X}", number + 1)
}
