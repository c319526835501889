//! The server's socket: multicasts to the group, receives requests by unicast.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::socket::{Socket, bind, grow_receive_buffer, new_socket, send_to_groups};
use crate::{Buffer, Error, Group, Interface, Offload, RecvBatch};

/// How a [`ServerSocket`] is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Time to live (hop limit) of multicast datagrams: 1 stays in the local network, more passes multicast routers.
    pub ttl: u8,
    /// Receive buffer for requests, in bytes.
    pub receive_buffer: usize,
    /// Whether to use segmentation offload.
    pub offload: Offload,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            ttl: 1,
            receive_buffer: 4 << 20,
            offload: Offload::Auto,
        }
    }
}

/// Send buffer in bytes: a few milliseconds at 1 Gbit/s. What waits here can no longer be paced.
const SEND_BUFFER: usize = 512 << 10;

/// A socket bound to an interface's own address, whose datagrams to the group carry that address.
#[derive(Debug)]
pub struct ServerSocket {
    socket: Socket,
    destination: SocketAddr,
    buffer: Buffer,
}

impl ServerSocket {
    /// Opens the socket. Needs the context of a tokio runtime.
    ///
    /// Requests come to the group's port if it is free on this address, so that a firewall rule can name it, and to
    /// any other port if not: clients learn the port from what they hear.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::InUse`]
    pub fn open(
        group: Group,
        interface: &Interface,
        options: ServerOptions,
    ) -> Result<Self, Error> {
        let address = interface.socket_address(group.address().port());
        let failed = |step| Error::socket(step, address);
        let socket = new_socket(address)?;
        let buffer = grow_receive_buffer(&socket, options.receive_buffer)
            .map_err(failed("set the receive buffer for"))?;
        socket
            .set_send_buffer_size(SEND_BUFFER)
            .map_err(failed("set the send buffer for"))?;
        send_to_groups(&socket, interface, options.ttl)?;
        bind(&socket, address)
            .or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse => bind(&socket, interface.socket_address(0)),
                _ => Err(error),
            })
            .map_err(failed("bind to"))?;
        let socket =
            Socket::register(socket, options.offload).map_err(failed("use the socket of"))?;
        Ok(Self {
            socket,
            destination: group.on(interface),
            buffer,
        })
    }

    /// The address to which requests have to be sent.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_address()
    }

    /// The receive buffer that the system gave.
    pub fn receive_buffer(&self) -> Buffer {
        self.buffer
    }

    /// Sends `bytes` to the group as datagrams of `segment` bytes each; the last one may be shorter.
    ///
    /// At most [`crate::BATCH_BYTES_MAX`] bytes and [`crate::BATCH_SEGMENTS_MAX`] datagrams. Waits while the send
    /// buffer is full. If the future is dropped, or an error comes, a part of the batch may have been sent.
    ///
    /// # Errors
    /// What the system says, such as `EMSGSIZE` for a datagram that is larger than the interface's MTU.
    pub async fn multicast(&self, bytes: &[u8], segment: usize) -> io::Result<()> {
        self.socket.send(self.destination, bytes, segment).await
    }

    /// As [`Self::multicast`], to one client.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send_to(
        &self,
        destination: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        self.socket.send(destination, bytes, segment).await
    }

    /// Whether there is something for [`Self::try_recv`], for who waits for several sockets.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.as_tokio().poll_recv_ready(context)
    }

    /// Waits for requests.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.socket.recv(batch).await
    }

    /// Takes the requests that are there.
    ///
    /// # Errors
    /// `WouldBlock` if there are none; else what the system says.
    pub fn try_recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.socket.try_recv(batch)
    }
}
