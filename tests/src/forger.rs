//! An attacker in the segment: hears the group, and sends wrong blocks and wrong proofs in the server's name.
//!
//! Written from the tables of `docs/PROTOCOL.md`, not with the code under test.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use fastrand::Rng;

use crate::relay::{Worker, join, sender};
use crate::room::Machine;

const HEADER: usize = 32;
const ANNOUNCE: u8 = 1;
const DATA: u8 = 3;
const PROOF: u8 = 4;

/// Number of the run that the attacker pretends to be.
const STREAM: u16 = 0x6666;

/// Whose address the forged datagrams come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The attacker's own. Genuine announcements are repeated from there too.
    Own,
    /// The server's: nothing but the content tells them apart.
    Server,
}

/// A running attack. Stops when dropped.
#[derive(Debug)]
pub struct Forger {
    forged: Arc<AtomicU64>,
    _worker: Worker,
}

impl Forger {
    /// Answers one of `every` DATA and PROOF datagrams of the group with forged ones, which come before and after the
    /// true ones of the same blocks. `server` is where the true ones come from.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        attacker: &Machine,
        group: SocketAddrV4,
        server: SocketAddrV4,
        source: Source,
        every: u64,
    ) -> Result<Self> {
        let ears = attacker.netns.enter(|| join(group, attacker.address))?;
        let mouth = match source {
            Source::Own => attacker.netns.enter(|| sender(attacker.address, 0))?,
            Source::Server => {
                // An address of its own that it tells nobody: requests still reach the server.
                let netns = &attacker.netns;
                netns.enter(|| {
                    let all = Path::new("/proc/sys/net/ipv4/conf/all");
                    fs::write(all.join("arp_ignore"), "1")?;
                    // Else the server's own datagrams would be dropped as spoofed.
                    Ok(fs::write(all.join("accept_local"), "1")?)
                })?;
                netns.ip(&format!("address add {}/32 dev lo", server.ip()))?;
                let mouth = netns.enter(|| sender(*server.ip(), server.port()))?;
                socket2::SockRef::from(&mouth).set_multicast_if_v4(&attacker.address)?;
                mouth
            }
        };
        let forged = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&forged);
        let mut rng = Rng::with_seed(7);
        let mut buffer = [0; 2048];
        let mut heard: u64 = 0;
        let worker = Worker::start(move || {
            let Ok((length, from)) = ears.recv_from(&mut buffer) else {
                return;
            };
            let datagram = &buffer[..length];
            if from != SocketAddr::V4(server) {
                return;
            }
            if source == Source::Own && datagram.get(1) == Some(&ANNOUNCE) {
                // The genuine head, as a server that never answers.
                let mut echo = datagram.to_vec();
                echo[2..4].copy_from_slice(&STREAM.to_le_bytes());
                let _ = mouth.send_to(&echo, group);
            }
            if length != HEADER + 1024 || !matches!(datagram[1], DATA | PROOF) {
                return;
            }
            heard += 1;
            if !heard.is_multiple_of(every) {
                return;
            }
            // A block that is still to come, and the one that has just come; often with a wild sequence number.
            for ahead in [rng.u32(1..40), 0] {
                let mut wrong = datagram.to_vec();
                let position = u32::from_le_bytes([wrong[28], wrong[29], wrong[30], wrong[31]]);
                wrong[28..32].copy_from_slice(&position.wrapping_add(ahead).to_le_bytes());
                if rng.u32(..4) == 0 {
                    wrong[4..8].copy_from_slice(&rng.u32(..).to_le_bytes());
                }
                // Everything wrong, or one bit.
                if rng.bool() {
                    rng.fill(&mut wrong[HEADER..]);
                } else {
                    wrong[HEADER + rng.usize(..1024)] ^= 1 << rng.u32(..8);
                }
                if mouth.send_to(&wrong, group).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            forged,
            _worker: worker,
        })
    }

    /// Datagrams forged.
    pub fn forged(&self) -> u64 {
        self.forged.load(Ordering::Relaxed)
    }
}

/// Datagrams that mean nothing, of any length. Stops when dropped.
#[derive(Debug)]
pub struct Noise {
    sent: Arc<AtomicU64>,
    _worker: Worker,
}

impl Noise {
    /// Sends noise to each of `destinations`, some of it with a header as the protocol has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(attacker: &Machine, destinations: &[SocketAddrV4]) -> Result<Self> {
        let mouth = attacker.netns.enter(|| sender(attacker.address, 0))?;
        let destinations = destinations.to_vec();
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let mut rng = Rng::with_seed(8);
        let worker = Worker::start(move || {
            for destination in &destinations {
                let mut bytes = vec![0; rng.usize(..1473)];
                rng.fill(&mut bytes);
                if rng.bool() {
                    for (place, byte) in bytes.iter_mut().zip([1, rng.u8(..6)]) {
                        *place = byte;
                    }
                }
                if mouth.send_to(&bytes, destination).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Not to outshout everybody: the network is not what is tested.
            std::thread::sleep(std::time::Duration::from_micros(500));
        });
        Ok(Self {
            sent,
            _worker: worker,
        })
    }

    /// Datagrams sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
