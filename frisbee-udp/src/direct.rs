//! The socket of a client that is in no group: a server sends to it alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::socket::{Socket, bind, grow_receive_buffer, new_socket};
use crate::{Buffer, ClientOptions, DropCounter, Error, Interface, RecvBatch};

/// Sends requests to servers, and receives what they send to this address.
#[derive(Debug)]
pub struct DirectSocket {
    socket: Socket,
    buffer: Buffer,
    is_ipv6: bool,
}

impl DirectSocket {
    /// Opens a socket of the family of `server`, at the address that the system sends from to it. Needs the context of
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Socket`]
    pub fn open(server: SocketAddr, options: ClientOptions) -> Result<Self, Error> {
        let failed = |step| Error::socket(step, server);
        // Told now rather than by a client that waits: there is no route to it.
        Interface::address_towards(server).map_err(failed("find a way to"))?;
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = SocketAddr::new(any, 0);
        let socket = new_socket(address)?;
        let buffer = grow_receive_buffer(&socket, options.receive_buffer)
            .map_err(failed("set the receive buffer for"))?;
        bind(&socket, address).map_err(failed("open a socket to"))?;
        let socket =
            Socket::register(socket, options.offload).map_err(failed("use a socket to"))?;
        Ok(Self {
            socket,
            buffer,
            is_ipv6: server.is_ipv6(),
        })
    }

    /// The receive buffer that the system gave.
    pub fn receive_buffer(&self) -> Buffer {
        self.buffer
    }

    /// Counts the datagrams that were dropped because the receive buffer was full.
    pub fn drop_counter(&self) -> DropCounter {
        DropCounter::new(self.socket.as_tokio(), self.is_ipv6)
    }

    /// Waits for datagrams.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        self.socket.recv(batch).await
    }

    /// Sends one datagram to a server.
    ///
    /// # Errors
    /// What the system says.
    pub async fn send(&self, destination: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket
            .send(destination, bytes, bytes.len().max(1))
            .await
    }
}
