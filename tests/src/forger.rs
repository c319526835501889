//! Attackers in the segment: they hear the group and send datagrams of every kind that are wrong, in the server's name
//! too, or flood the server with requests.
//!
//! Written from the tables of `docs/PROTOCOL.md`, not with the code under test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use fastrand::Rng;

use crate::relay::{Worker, join, sender};
use crate::room::Machine;

const HEADER: usize = 32;
const ANNOUNCE: u8 = 1;
const REQUEST: u8 = 2;
const DATA: u8 = 3;
const PROOF: u8 = 4;
const PARITY: u8 = 5;
const CHALLENGE: u8 = 6;

/// Bytes of a REQUEST without items.
const REQUEST_BYTES: usize = 92;

/// Datagrams that are kept to be sent again.
const KEPT: usize = 1000;

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
    /// Answers one of `every` DATA, PROOF and PARITY datagrams of the group with two forged ones: mostly wrong ones of
    /// the same kind, which come before and after the true ones; else ANNOUNCEs that lie, CHALLENGEs, what was sent
    /// before, and REQUESTs to the server. `server` is where the true ones come from.
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
        let own = attacker.netns.enter(|| sender(attacker.address, 0))?;
        let mouth = match source {
            Source::Own => own.try_clone()?,
            Source::Server => {
                masquerade(attacker, *server.ip())?;
                let netns = &attacker.netns;
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
        let (mut announce, mut before) = (Vec::new(), Vec::new());
        let worker = Worker::start(move || {
            let Ok((length, from)) = ears.recv_from(&mut buffer) else {
                return;
            };
            let datagram = &buffer[..length];
            if from != SocketAddr::V4(server) {
                return;
            }
            if datagram.get(1) == Some(&ANNOUNCE) {
                announce = datagram.to_vec();
                if source == Source::Own {
                    // The genuine head, as a server that never answers.
                    let mut echo = datagram.to_vec();
                    echo[2..4].copy_from_slice(&STREAM.to_le_bytes());
                    let _ = mouth.send_to(&echo, group);
                }
                return;
            }
            if length < HEADER + 1024 || !matches!(datagram[1], DATA | PROOF | PARITY) {
                return;
            }
            before.push(datagram.to_vec());
            if before.len() > KEPT {
                before.swap_remove(rng.usize(..KEPT));
            }
            heard += 1;
            if !heard.is_multiple_of(every) {
                return;
            }
            for ahead in [rng.u32(1..40), 0] {
                let sent = match rng.u32(..8) {
                    0 => mouth.send_to(&before[rng.usize(..before.len())], group),
                    1 if !announce.is_empty() => mouth.send_to(&lie(&mut rng, &announce), group),
                    2 => mouth.send_to(&challenge(&mut rng, datagram), group),
                    // The server would not take one from itself.
                    3 => own.send_to(&request(&mut rng, datagram), server),
                    _ => mouth.send_to(&falsify(&mut rng, datagram, ahead), group),
                };
                if sent.is_ok() {
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

/// Gives a machine the address of another one, of which it tells nobody: what is sent there still reaches the other one.
fn masquerade(attacker: &Machine, address: Ipv4Addr) -> Result<()> {
    attacker.netns.enter(|| {
        let all = Path::new("/proc/sys/net/ipv4/conf/all");
        fs::write(all.join("arp_ignore"), "1")?;
        fs::write(all.join("arp_announce"), "2")?;
        // Else the other one's own datagrams would be dropped as spoofed.
        Ok(fs::write(all.join("accept_local"), "1")?)
    })?;
    let line = format!("address add {address}/32 dev lo");
    attacker.netns.ip(&line)?;
    Ok(())
}

/// A block that is still to come or has just come, with a wrong content; often with a wild sequence number.
fn falsify(rng: &mut Rng, datagram: &[u8], ahead: u32) -> Vec<u8> {
    let mut wrong = datagram.to_vec();
    let position = u32::from_le_bytes([wrong[28], wrong[29], wrong[30], wrong[31]]);
    wrong[28..32].copy_from_slice(&position.wrapping_add(ahead).to_le_bytes());
    if rng.u32(..4) == 0 {
        rng.fill(&mut wrong[4..8]);
    }
    // Everything wrong, or one bit.
    if rng.bool() {
        rng.fill(&mut wrong[HEADER..]);
    } else {
        wrong[HEADER + rng.usize(..1024)] ^= 1 << rng.u32(..8);
    }
    wrong
}

/// The genuine head with another cursor, flags, promises, clock and queued parity.
fn lie(rng: &mut Rng, announce: &[u8]) -> Vec<u8> {
    let mut wrong = announce.to_vec();
    wrong[40..44].copy_from_slice(&rng.u32(..40).to_le_bytes());
    wrong[48] ^= 1;
    let end = wrong.len() - 1024;
    rng.fill(&mut wrong[72..end]);
    wrong
}

/// A CHALLENGE with a token that is none.
fn challenge(rng: &mut Rng, datagram: &[u8]) -> Vec<u8> {
    let mut wrong = datagram[..HEADER + 16].to_vec();
    wrong[1] = CHALLENGE;
    rng.fill(&mut wrong[HEADER..]);
    wrong
}

/// A REQUEST for 50 whole objects, from a client that there is not.
fn request(rng: &mut Rng, datagram: &[u8]) -> Vec<u8> {
    let mut wrong = datagram[..HEADER].to_vec();
    wrong[1] = REQUEST;
    wrong[24..32].fill(0);
    wrong.resize(REQUEST_BYTES, 0);
    rng.fill(&mut wrong[32..40]);
    let items = 50_u32;
    wrong[88..92].copy_from_slice(&items.to_le_bytes());
    for _ in 0..items {
        wrong.extend_from_slice(&rng.u32(..60).to_le_bytes());
        wrong.extend_from_slice(&[0; 8]);
    }
    wrong
}

/// REQUESTs to a server as fast as the machine can send them. Stops when dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    _worker: Worker,
}

impl Flood {
    /// Hears one datagram of the group, so as to know the image, and floods the server with REQUESTs for all that it
    /// has. If there is a `victim`, every other one asks for datagrams to that address alone, and comes from there.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        attacker: &Machine,
        group: SocketAddrV4,
        server: SocketAddrV4,
        victim: Option<SocketAddrV4>,
    ) -> Result<Self> {
        let ears = attacker.netns.enter(|| join(group, attacker.address))?;
        let own = attacker.netns.enter(|| sender(attacker.address, 0))?;
        let spoofed = match victim {
            None => None,
            Some(victim) => {
                masquerade(attacker, *victim.ip())?;
                let mouth = attacker
                    .netns
                    .enter(|| sender(*victim.ip(), victim.port()))?;
                Some(mouth)
            }
        };
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let mut rng = Rng::with_seed(9);
        let (mut buffer, mut heard) = ([0; 2048], false);
        let worker = Worker::start(move || {
            if !heard {
                heard = ears
                    .recv_from(&mut buffer)
                    .is_ok_and(|(length, _)| length >= HEADER);
                return;
            }
            let mut datagram = request(&mut rng, &buffer);
            let mut mouth = &own;
            if let Some(spoofed) = spoofed.as_ref().filter(|_| rng.bool()) {
                // Flag: by unicast, with a token that is none.
                datagram[48] |= 2;
                rng.fill(&mut datagram[40..48]);
                mouth = spoofed;
            }
            if mouth.send_to(&datagram, server).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self {
            sent,
            _worker: worker,
        })
    }

    /// REQUESTs sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
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
                    for (place, byte) in bytes.iter_mut().zip([1, rng.u8(..8)]) {
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
