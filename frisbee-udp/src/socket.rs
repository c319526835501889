//! One UDP socket under tokio, with batched sending and receiving.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;

use crate::{BATCH_BYTES_MAX, BATCH_SEGMENTS_MAX, Error, RecvBatch};

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

/// A new IPv4 UDP socket, not bound yet.
pub(crate) fn new_socket(address: SocketAddr) -> Result<socket2::Socket, Error> {
    socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
        .map_err(Error::socket("open a socket for", address))
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
