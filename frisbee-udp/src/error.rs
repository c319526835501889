//! What can go wrong while sockets are set up, in words for the operator.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Why a socket could not be set up. One line each: what is wrong, then what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is no group address.
    #[error(
        "{text:?} is not a multicast group: give ADDRESS:PORT, such as 239.192.7.1:7001 or [ff15::7]:7001"
    )]
    BadGroup {
        /// What was given.
        text: String,
    },
    /// An address of one machine.
    #[error(
        "{address} is not a multicast address: choose one from 239.192.0.0/14 (RFC 2365) or ff15::/16 (RFC 4291)"
    )]
    NotMulticast {
        /// What was given.
        address: IpAddr,
    },
    /// An IPv4 address that is neither a multicast group nor a broadcast address.
    #[error(
        "{address} is not a multicast address, nor the broadcast address of the interface: choose one from 239.192.0.0/14 \
         (RFC 2365), or of {known}"
    )]
    NotBroadcast {
        /// What was given.
        address: IpAddr,
        /// Broadcast addresses and their interfaces.
        known: String,
    },
    /// A group that every machine listens to for the network's own sake, which is flooded by every switch.
    #[error(
        "{address} belongs to the network itself: choose one from 239.192.0.0/14 (RFC 2365) or ff15::/16 (RFC 4291)"
    )]
    ControlBlock {
        /// What was given.
        address: IpAddr,
    },
    /// An IPv6 group of a scope that is reserved or does not leave the machine.
    #[error(
        "{address} has a scope that does not leave the machine or is reserved: choose one from ff12::/16 (this link) or \
         ff15::/16 (this site)"
    )]
    Scope {
        /// What was given.
        address: IpAddr,
    },
    /// Port 0.
    #[error("port 0 cannot be a group's port: give one from 1 to 65535")]
    NoPort,
    /// No interface of this name or address.
    #[error("there is no interface {wanted:?}: choose one of {existing}")]
    NoSuchInterface {
        /// What was given.
        wanted: String,
        /// Those that are up: names and addresses.
        existing: String,
    },
    /// The interface is not up.
    #[error("interface {name} is down: ip link set dev {name} up")]
    InterfaceDown {
        /// Its name.
        name: String,
    },
    /// The interface is up, but nothing is at its other end.
    #[error("interface {name} has no carrier: check its cable and the switch")]
    NoCarrier {
        /// Its name.
        name: String,
    },
    /// The interface is set not to multicast.
    #[error("interface {name} does not multicast: ip link set dev {name} multicast on")]
    NoMulticast {
        /// Its name.
        name: String,
    },
    /// The interface has no address of the group's family.
    #[error(
        "interface {name} has no {family} address: give it one, or choose a group of the other family"
    )]
    NoAddress {
        /// Its name.
        name: String,
        /// The group's family.
        family: &'static str,
    },
    /// An IPv6 group of link-local scope exists on every interface.
    #[error(
        "{group} is another group on each interface: name the network with --interface, one of {existing}"
    )]
    ZoneNeeded {
        /// The group.
        group: SocketAddr,
        /// Interfaces that exist.
        existing: String,
    },
    /// A group was given with one interface, and another one beside it.
    #[error("{group} names another interface than {name}: leave out one of the two")]
    OtherZone {
        /// The group; the number behind `%` is that of its interface.
        group: SocketAddr,
        /// The other interface.
        name: String,
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
