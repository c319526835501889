//! One UDP socket under tokio, with batched sending and receiving.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;

use crate::{BATCH_BYTES_MAX, BATCH_SEGMENTS_MAX, Error, Interface, RecvBatch};

/// Whether the system may cut and join datagrams on our behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Use it until the system refuses.
    #[default]
    Auto,
    /// One system call for each datagram.
    Never,
}

/// What a socket buffer was to be and what the system gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes wanted.
    pub wanted: usize,
    /// Bytes got.
    pub got: usize,
}

impl Buffer {
    /// Whether the system gave less than was wanted.
    pub fn is_short(self) -> bool {
        self.got < self.wanted
    }
}

/// A new UDP socket of the address's family, not bound yet.
pub(crate) fn new_socket(address: SocketAddr) -> Result<socket2::Socket, Error> {
    let failed = |step| Error::socket(step, address);
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
        .map_err(failed("open a socket for"))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true).map_err(failed("restrict"))?;
    }
    Ok(socket)
}

/// How long a new IPv6 address may take until it can be used: duplicate address detection (RFC 4862).
const TENTATIVE: Duration = Duration::from_secs(4);

/// Binds to an address of this machine, which may be about to become one.
pub(crate) fn bind(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + TENTATIVE;
    loop {
        match socket.bind(&address.into()) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable
                    && address.is_ipv6()
                    && Instant::now() < end =>
            {
                thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}

/// What is sent to groups leaves by this interface, and passes this many routers less one.
pub(crate) fn send_to_groups(
    socket: &socket2::Socket,
    interface: &Interface,
    ttl: u8,
) -> Result<(), Error> {
    let failed = |step| Error::socket(step, interface.socket_address(0));
    match interface.address() {
        IpAddr::V4(address) => {
            socket
                .set_multicast_if_v4(&address)
                .map_err(failed("multicast from"))?;
            socket
                .set_multicast_ttl_v4(ttl.into())
                .map_err(failed("set the multicast TTL for"))?;
            // Clients may run on this machine.
            socket
                .set_multicast_loop_v4(true)
                .map_err(failed("loop multicast back to"))?;
            socket.set_broadcast(true).map_err(failed("broadcast from"))
        }
        IpAddr::V6(_) => {
            socket
                .set_multicast_if_v6(interface.index())
                .map_err(failed("multicast from"))?;
            socket
                .set_multicast_hops_v6(ttl.into())
                .map_err(failed("set the hop limit for"))?;
            socket
                .set_multicast_loop_v6(true)
                .map_err(failed("loop multicast back to"))
        }
    }
}

/// Makes the receive buffer as large as wanted, or as large as the system allows.
pub(crate) fn grow_receive_buffer(socket: &socket2::Socket, wanted: usize) -> io::Result<Buffer> {
    // Beyond `net.core.rmem_max` only with CAP_NET_ADMIN; the ordinary option is clamped instead of failing.
    if setsockopt(socket, sockopt::RcvBufForce, &wanted).is_err() {
        socket.set_recv_buffer_size(wanted)?;
    }
    // The kernel doubles the number for its own bookkeeping (socket(7)).
    Ok(Buffer {
        wanted,
        got: socket.recv_buffer_size()? / 2,
    })
}

/// A bound socket, registered with the tokio runtime.
#[derive(Debug)]
pub(crate) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    offload: Offload,
}

impl Socket {
    /// Takes over a bound socket. Needs the context of a tokio runtime.
    pub(crate) fn register(socket: socket2::Socket, offload: Offload) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let io = tokio::net::UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&io).into())?;
        Ok(Self { io, state, offload })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    pub(crate) fn as_tokio(&self) -> &tokio::net::UdpSocket {
        &self.io
    }

    /// Waits for datagrams and takes all that are there, as far as `batch` has room.
    pub(crate) async fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.io
            .async_io(Interest::READABLE, || self.fill(batch))
            .await
    }

    /// Takes what is there without waiting; `WouldBlock` if there is nothing.
    pub(crate) fn try_recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.io.try_io(Interest::READABLE, || self.fill(batch))
    }

    fn fill(&self, batch: &mut RecvBatch) -> io::Result<()> {
        batch.fill(|buffers, meta| self.state.recv((&self.io).into(), buffers, meta))
    }

    /// Sends `bytes` as datagrams of `segment` bytes each (the last may be shorter) to one destination, waiting
    /// while the send buffer is full.
    pub(crate) async fn send(
        &self,
        destination: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        if segment == 0
            || bytes.len() > BATCH_BYTES_MAX
            || bytes.len().div_ceil(segment) > BATCH_SEGMENTS_MAX
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "batch does not fit into one system call",
            ));
        }
        if bytes.len() > segment && self.has_gso() {
            match self.send_one(destination, bytes, Some(segment)).await {
                // Refused by driver or path: quinn-udp has switched GSO off for good, and nothing has left.
                Err(_) if !self.has_gso() => {}
                result => return result,
            }
        }
        for datagram in bytes.chunks(segment) {
            self.send_one(destination, datagram, None).await?;
        }
        Ok(())
    }

    fn has_gso(&self) -> bool {
        self.offload == Offload::Auto && self.state.max_gso_segments() > 1
    }

    async fn send_one(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        self.io
            .async_io(Interest::WRITABLE, || {
                self.state.try_send((&self.io).into(), &transmit)
            })
            .await
    }
}
