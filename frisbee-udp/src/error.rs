//! What can go wrong while sockets are set up, in words for the operator.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Why a socket could not be set up. One line each: what is wrong, then what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is no group address.
    #[error("{text:?} is not a multicast group: give ADDRESS:PORT, such as 239.192.7.1:7001")]
    BadGroup {
        /// What was given.
        text: String,
    },
    /// An address outside 224.0.0.0/4.
    #[error("{address} is not a multicast address: choose one from 239.192.0.0/14 (RFC 2365)")]
    NotMulticast {
        /// What was given.
        address: IpAddr,
    },
    /// A group in 224.0.0.0/24, which belongs to the routing protocols and is flooded by every switch.
    #[error(
        "{address} belongs to the local network control block: choose one from 239.192.0.0/14 (RFC 2365)"
    )]
    ControlBlock {
        /// What was given.
        address: IpAddr,
    },
    /// Port 0.
    #[error("port 0 cannot be a group's port: give one from 1 to 65535")]
    NoPort,
    /// An IPv6 group.
    #[error(
        "{address} is an IPv6 group, which is not supported yet: use an IPv4 group such as 239.192.7.1:7001"
    )]
    Ipv6 {
        /// What was given.
        address: IpAddr,
    },
    /// No interface of this name or address.
    #[error("there is no interface {wanted:?} with an IPv4 address: choose one of {existing}")]
    NoSuchInterface {
        /// What was given.
        wanted: String,
        /// Those that exist: names and addresses.
        existing: String,
    },
    /// The kernel has no route to the group.
    #[error(
        "the system has no route to {group} ({source}): name the network with --interface, one of {existing}"
    )]
    NoRoute {
        /// The group.
        group: SocketAddr,
        /// Interfaces that exist.
        existing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The interfaces could not be listed.
    #[error("cannot list the network interfaces ({source}): check the permissions of this process")]
    Interfaces {
        /// What the system said.
        source: io::Error,
    },
    /// The address is taken by a program that does not share it.
    #[error("{address} is in use by another program: stop it or choose another port")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Any other step of setting a socket up.
    #[error(
        "cannot {step} {address} ({source}): check the interface and the permissions of this process"
    )]
    Socket {
        /// The step, as a verb: "bind to", "join".
        step: &'static str,
        /// The address that it was about.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn socket(
        step: &'static str,
        address: impl Into<SocketAddr>,
    ) -> impl FnOnce(io::Error) -> Self {
        let address = address.into();
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            _ => Self::Socket {
                step,
                address,
                source,
            },
        }
    }
}
