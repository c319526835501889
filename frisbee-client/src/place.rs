//! Where the image comes from: a group, a server by unicast, or the one after the other.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use frisbee_cli::{Exit, Failure};
use frisbee_proto::Unicast;
use frisbee_udp::{
    Buffer, ClientOptions, ClientSocket, DEFAULT_PORT, DirectSocket, DropCounter, Group, Interface,
    RecvBatch,
};

use crate::membership::{Membership, News};

/// Where to receive.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// What is sent to a group, and what servers send to this client when nothing comes there.
    Group {
        group: Group,
        interface: Interface,
        unicast: Unicast,
    },
    /// What this server sends to this client alone.
    Server(SocketAddr),
}

impl Place {
    /// When the protocol machine asks for datagrams to this client alone.
    pub(crate) fn unicast(&self) -> Unicast {
        match *self {
            Self::Group { unicast, .. } => unicast,
            Self::Server(server) => Unicast::Always(server),
        }
    }

    /// Opens the sockets. Needs the context of a tokio runtime.
    pub(crate) fn open(&self, now: Instant) -> Result<Socket, Failure> {
        let options = ClientOptions::default();
        let socket = match self {
            Self::Group {
                group, interface, ..
            } => ClientSocket::join(*group, interface, options).map(|socket| {
                let membership = Membership::new(now, *group, interface.clone());
                Socket::Group(Box::new(socket), membership)
            }),
            Self::Server(server) => DirectSocket::open(*server, options).map(Socket::Direct),
        };
        socket.map_err(|error| Failure::new(Exit::Network, error))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group {
                group, interface, ..
            } => write!(f, "{group} on {interface}"),
            Self::Server(server) => write!(f, "server {server}"),
        }
    }
}

/// The sockets of a [`Place`].
pub(crate) enum Socket {
    Group(Box<ClientSocket>, Membership),
    Direct(DirectSocket),
}

impl Socket {
    pub(crate) async fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        match self {
            Self::Group(socket, _) => socket.recv(batch).await,
            Self::Direct(socket) => socket.recv(batch).await,
        }
    }

    pub(crate) async fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Group(socket, _) => socket.send(to, bytes).await,
            Self::Direct(socket) => socket.send(to, bytes).await,
        }
    }

    pub(crate) fn receive_buffer(&self) -> Buffer {
        match self {
            Self::Group(socket, _) => socket.receive_buffer(),
            Self::Direct(socket) => socket.receive_buffer(),
        }
    }

    /// Whether a group is received from, and not one server alone.
    pub(crate) fn is_group(&self) -> bool {
        matches!(self, Self::Group(..))
    }

    /// Sees to it that the group's datagrams go on to arrive. `arrived` counts those that have.
    pub(crate) fn look_after(&mut self, now: Instant, arrived: u64) -> Option<News> {
        match self {
            Self::Group(socket, membership) => membership.look(now, arrived, socket),
            Self::Direct(_) => None,
        }
    }

    /// Counts what the kernel drops, of every socket.
    pub(crate) fn drop_counters(&self) -> Vec<DropCounter> {
        match self {
            Self::Group(socket, _) => vec![socket.drop_counter(), socket.unicast_drop_counter()],
            Self::Direct(socket) => vec![socket.drop_counter()],
        }
    }
}

/// What the client does when nothing useful comes from the group for so many seconds; never, if there are none.
pub(crate) fn fallback(server: Option<&str>, seconds: u64) -> Result<Unicast, Failure> {
    let server = server
        .map(|text| find_server(text, DEFAULT_PORT))
        .transpose()?;
    Ok(match seconds {
        0 => Unicast::Never,
        seconds => Unicast::Fallback {
            server,
            after: Duration::from_secs(seconds),
        },
    })
}

/// A server as an operator types it: an address or a name, with or without another port than `port`.
pub(crate) fn find_server(text: &str, port: u16) -> Result<SocketAddr, Failure> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let found = match text.contains(':') {
        true => text.to_socket_addrs(),
        false => (text, port).to_socket_addrs(),
    };
    let first = found.map(|mut all| all.next());
    first.ok().flatten().ok_or_else(|| {
        let message =
            format!("no server {text:?} is found: give its address, such as 192.168.1.10:{port}");
        Failure::new(Exit::Network, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_with_and_without_a_port() {
        for (text, address) in [
            ("10.1.2.3", "10.1.2.3:7001"),
            ("10.1.2.3:99", "10.1.2.3:99"),
            ("2001:db8::1", "[2001:db8::1]:7001"),
            ("[2001:db8::1]", "[2001:db8::1]:7001"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(find_server(text, 7001).unwrap(), address.parse().unwrap());
        }
        for text in ["", "no such host", "10.1.2.3:x", "10.1.2.3:99999"] {
            let error = find_server(text, 7001).unwrap_err();
            assert!(error.message.contains("no server"), "{error}");
        }
    }

    #[test]
    fn without_seconds_there_is_no_fallback() {
        assert_eq!(fallback(None, 0).unwrap(), Unicast::Never);
        assert!(fallback(Some("10.1.2.3:x"), 5).is_err());
    }
}
