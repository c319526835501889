//! A network that reorders and duplicates: passes a group's datagrams from one segment to another in another order.
//!
//! The kernel at hand may have no netem, so this is a program between two segments. It looks like the server to the
//! clients on the far side: requests to it are passed on.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::room::Machine;

/// How long a socket may keep a thread from looking around.
const PATIENCE: Duration = Duration::from_millis(2);

/// A socket that receives a group on the interface with this address, and sends to it from there.
///
/// # Errors
/// What the system says.
pub(crate) fn join(group: SocketAddrV4, address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&group.into())?;
    socket.join_multicast_v4(group.ip(), &address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// A socket that sends from this address, to groups too, but not to itself.
///
/// # Errors
/// What the system says.
pub(crate) fn sender(address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket =
        UdpSocket::bind((address, port)).with_context(|| format!("binding to {address}:{port}"))?;
    let options = SockRef::from(&socket);
    options.set_multicast_if_v4(&address)?;
    options.set_multicast_loop_v4(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A thread that runs until it is stopped.
#[derive(Debug)]
pub(crate) struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Calls `step` again and again.
    pub(crate) fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                step();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How the far side differs from the near one.
#[derive(Clone, Copy, Debug)]
pub struct Disorder {
    /// Datagrams held back at any time, from which the next is taken at random.
    pub window: usize,
    /// How many of a thousand come twice.
    pub duplicates: u32,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// A running relay. Stops when dropped.
#[derive(Debug)]
pub struct Relay {
    passed: Arc<AtomicU64>,
    _worker: Worker,
    _requests: Worker,
}

impl Relay {
    /// Passes `group` from the segment of `near` to that of `far`, and requests back.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        near: &Machine,
        far: &Machine,
        group: SocketAddrV4,
        disorder: Disorder,
    ) -> Result<Self> {
        let source = near.netns.enter(|| join(group, near.address))?;
        let requests = near.netns.enter(|| sender(near.address, 0))?;
        let out = far.netns.enter(|| sender(far.address, 0))?;
        let (out_too, requests) = (out.try_clone()?, Arc::new(requests));

        let server: Arc<std::sync::Mutex<Option<std::net::SocketAddr>>> = Arc::default();
        let passed = Arc::new(AtomicU64::new(0));
        let mut rng = Rng::with_seed(disorder.seed);
        let mut held: Vec<Vec<u8>> = Vec::new();
        let mut buffer = [0; 2048];
        let worker = {
            let (server, passed) = (Arc::clone(&server), Arc::clone(&passed));
            Worker::start(move || {
                let received = source.recv_from(&mut buffer);
                if let Ok((length, from)) = received {
                    if let Ok(mut server) = server.lock() {
                        *server = Some(from);
                    }
                    held.push(buffer[..length].to_vec());
                    if rng.u32(..1000) < disorder.duplicates {
                        held.push(buffer[..length].to_vec());
                    }
                }
                // When nothing more comes, nothing is held back.
                let keep = if received.is_ok() { disorder.window } else { 0 };
                while held.len() > keep {
                    let datagram = held.swap_remove(rng.usize(..held.len()));
                    // A full buffer loses it, as networks do.
                    let _ = out.send_to(&datagram, group);
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let mut buffer = [0; 2048];
        let requests = Worker::start(move || {
            let Ok((length, _)) = out_too.recv_from(&mut buffer) else {
                return;
            };
            if let Some(server) = server.lock().ok().and_then(|server| *server) {
                let _ = requests.send_to(&buffer[..length], server);
            }
        });
        Ok(Self {
            passed,
            _worker: worker,
            _requests: requests,
        })
    }

    /// Datagrams passed on.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}
