//! The client's sockets: one receives the group, one sends requests and receives answers to this client alone.
//!
//! Two sockets, because the group's port is shared by all clients of a machine: an answer by unicast to that port
//! would reach only one of them.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use socket2::InterfaceIndexOrAddress;

use crate::socket::{Socket, grow_receive_buffer, new_socket};
use crate::{Buffer, DropCounter, Error, Group, Interface, Offload, RecvBatch};

/// How a [`ClientSocket`] is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Receive buffer for the group, in bytes.
    pub receive_buffer: usize,
    /// Whether to use segmentation offload.
    pub offload: Offload,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            receive_buffer: 16 << 20,
            offload: Offload::Auto,
        }
    }
}

/// Receive buffer for answers by unicast, in bytes.
const UNICAST_BUFFER: usize = 1 << 20;

/// A member of the group.
#[derive(Debug)]
pub struct ClientSocket {
    group: Socket,
    unicast: Socket,
    buffer: Buffer,
}

impl ClientSocket {
    /// Joins the group on one interface. Needs the context of a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Socket`], [`Error::InUse`]
    pub fn join(
        group: Group,
        interface: &Interface,
        options: ClientOptions,
    ) -> Result<Self, Error> {
        let failed = |step| Error::socket(step, group.address());
        let socket = new_socket(group.address())?;
        let buffer = grow_receive_buffer(&socket, options.receive_buffer)
            .map_err(failed("set the receive buffer for"))?;
        // Several clients on one machine each get a copy. Not SO_REUSEPORT, which would deal datagrams out.
        socket.set_reuse_address(true).map_err(failed("share"))?;
        // Bound to the group's address, so that other groups on the same port stay out; and only from the interface
        // that was joined, whatever other programs join.
        socket
            .bind(&group.address().into())
            .map_err(failed("bind to"))?;
        socket
            .set_multicast_all_v4(false)
            .map_err(failed("restrict"))?;
        socket
            .join_multicast_v4_n(
                &group.ip(),
                &InterfaceIndexOrAddress::Index(interface.index()),
            )
            .map_err(failed("join"))?;
        let receiver =
            Socket::register(socket, options.offload).map_err(failed("use the socket of"))?;

        let address = SocketAddrV4::new(interface.ipv4(), 0);
        let failed = |step| Error::socket(step, address);
        let socket = new_socket(address.into())?;
        grow_receive_buffer(&socket, UNICAST_BUFFER)
            .map_err(failed("set the receive buffer for"))?;
        socket.bind(&address.into()).map_err(failed("bind to"))?;
        let unicast =
            Socket::register(socket, options.offload).map_err(failed("use the socket of"))?;
        Ok(Self {
            group: receiver,
            unicast,
            buffer,
        })
    }

    /// The address from which requests are sent.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.unicast.local_address()
    }

    /// The receive buffer that the system gave for the group.
    pub fn receive_buffer(&self) -> Buffer {
        self.buffer
    }

    /// Counts the group's datagrams that were dropped because the receive buffer was full.
    pub fn drop_counter(&self) -> DropCounter {
        DropCounter::new(self.group.as_tokio())
    }

    /// Waits for datagrams of the group or to this client.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        loop {
            // Whichever is ready; readiness alone takes nothing, so that no datagram is lost when this is dropped.
            let ready = tokio::select! {
                ready = self.group.as_tokio().readable() => ready.map(|()| &self.group),
                ready = self.unicast.as_tokio().readable() => ready.map(|()| &self.unicast),
            }?;
            match ready.try_recv(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Takes the group's datagrams that are there.
    ///
    /// # Errors
    /// `WouldBlock` if there are none; else what the system says.
    pub fn try_recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.group.try_recv(batch)
    }

    /// Sends one datagram to a server.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send(&self, destination: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.unicast
            .send(destination, bytes, bytes.len().max(1))
            .await
    }
}
