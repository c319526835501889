//! The client's sockets: one receives the group, one sends requests and receives answers to this client alone.
//!
//! Two sockets, because the group's port is shared by all clients of a machine: an answer by unicast to that port
//! would reach only one of them.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::task::{Context, Poll};

use socket2::SockRef;

use crate::membership::join;
use crate::socket::{Socket, bind, grow_receive_buffer, new_socket, send_to_groups};
use crate::{Buffer, DropCounter, Error, Group, Interface, Offload, RecvBatch};

/// How a [`ClientSocket`] is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Receive buffers, in bytes, for the group and for what comes to this client alone.
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

/// A member of the group.
#[derive(Debug)]
pub struct ClientSocket {
    pub(crate) group: Socket,
    pub(crate) unicast: Socket,
    pub(crate) buffer: Buffer,
    pub(crate) joined: Group,
    pub(crate) interface: Interface,
    pub(crate) options: ClientOptions,
    /// The interface could not be used when it was looked at last.
    pub(crate) lost: bool,
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
        let (receiver, buffer) = open_group(group, interface, options)?;
        Ok(Self {
            group: receiver,
            unicast: open_unicast(interface, options)?,
            buffer,
            joined: group,
            interface: interface.clone(),
            options,
            lost: false,
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
        DropCounter::new(self.group.as_tokio(), self.joined.is_ipv6())
    }

    /// Counts the datagrams to this client alone that were dropped because the receive buffer was full.
    pub fn unicast_drop_counter(&self) -> DropCounter {
        DropCounter::new(self.unicast.as_tokio(), self.joined.is_ipv6())
    }

    /// Whether there is something for [`Self::try_recv`], for who waits for several sockets.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.group.as_tokio().poll_recv_ready(context)
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

/// A socket that receives the group from one interface.
pub(crate) fn open_group(
    group: Group,
    interface: &Interface,
    options: ClientOptions,
) -> Result<(Socket, Buffer), Error> {
    let address = group.on(interface);
    let failed = |step| Error::socket(step, address);
    let socket = new_socket(address)?;
    let buffer = grow_receive_buffer(&socket, options.receive_buffer)
        .map_err(failed("set the receive buffer for"))?;
    // Several clients on one machine each get a copy. Not SO_REUSEPORT, which would deal datagrams out.
    socket.set_reuse_address(true).map_err(failed("share"))?;
    // Only from the interface that was joined, whatever other programs join: IPv4 tells memberships apart by interface,
    // IPv6 and broadcast do not.
    match group.is_multicast() {
        true => set_multicast_all(&socket, address, false).map_err(failed("restrict"))?,
        false => bind_device(&socket, interface).map_err(failed("restrict"))?,
    }
    if group.is_ipv6() {
        bind_device(&socket, interface).map_err(failed("restrict"))?;
    }
    // Bound to the group's address, so that other groups on the same port stay out.
    socket.bind(&address.into()).map_err(failed("bind to"))?;
    if group.is_multicast() {
        join(&SockRef::from(&socket), group, interface).map_err(failed("join"))?;
    }
    let socket = Socket::register(socket, options.offload).map_err(failed("use the socket of"))?;
    Ok((socket, buffer))
}

/// A socket of this client alone.
pub(crate) fn open_unicast(interface: &Interface, options: ClientOptions) -> Result<Socket, Error> {
    let address = interface.socket_address(0);
    let failed = |step| Error::socket(step, address);
    let socket = new_socket(address)?;
    // A server may come to send everything here.
    grow_receive_buffer(&socket, options.receive_buffer)
        .map_err(failed("set the receive buffer for"))?;
    // A probe asks the group.
    send_to_groups(&socket, interface, 1)?;
    bind(&socket, address).map_err(failed("bind to"))?;
    Socket::register(socket, options.offload).map_err(failed("use the socket of"))
}

fn set_multicast_all(socket: &socket2::Socket, address: SocketAddr, all: bool) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_multicast_all_v4(all),
        SocketAddr::V6(_) => socket.set_multicast_all_v6(all),
    }
}

fn bind_device(socket: &socket2::Socket, interface: &Interface) -> io::Result<()> {
    // The option is the same for both families.
    socket.bind_device_by_index_v4(NonZeroU32::new(interface.index()))
}
