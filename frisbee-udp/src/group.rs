//! Group addresses as an operator types them: multicast groups of IPv4 and IPv6, and IPv4 broadcast.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use nix::net::if_::if_nametoindex;

use crate::{Error, Interface};

/// The port of a group that is given without one.
pub const DEFAULT_PORT: u16 = 7001;

/// A multicast group, or an IPv4 broadcast address for networks without multicast, and a UDP port.
///
/// An IPv6 group may name its interface: `[ff02::7%eth0]:7001`. Whether an IPv4 address is a broadcast address only
/// an interface knows: [`Interface::find`] decides.
///
/// ```
/// let group: frisbee_udp::Group = "239.192.7.1:7001".parse()?;
/// assert_eq!(group, "239.192.7.1".parse()?);
/// assert!("[ff15::7]:7001".parse::<frisbee_udp::Group>()?.is_multicast());
/// assert!("[2001:db8::7]:7001".parse::<frisbee_udp::Group>().is_err());
/// # Ok::<(), frisbee_udp::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(SocketAddr);

impl Group {
    /// Checks that `address` is a group that a transfer may use.
    ///
    /// # Errors
    /// [`Error::NotMulticast`], [`Error::ControlBlock`], [`Error::Scope`], [`Error::NoPort`]
    pub fn new(address: SocketAddr) -> Result<Self, Error> {
        match address.ip() {
            IpAddr::V4(ip) => check_v4(ip)?,
            IpAddr::V6(ip) => check_v6(ip)?,
        }
        match address.port() {
            0 => Err(Error::NoPort),
            _ => Ok(Self(address)),
        }
    }

    /// The group that every machine of a network is in, of the same family, on the same port. Switches that snoop pass
    /// it on in any case (RFC 4541, sections 2.1.2 and 3): for tests of the network, not for transfers.
    #[must_use]
    pub fn all_hosts(self) -> Self {
        let ip = match self.0 {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        };
        Self(SocketAddr::new(ip, self.0.port()))
    }

    /// The broadcast address of an interface, on the same port. `None` for IPv6 and where there is no broadcast.
    pub fn broadcast(self, interface: &Interface) -> Option<Self> {
        let address = interface.broadcast()?;
        Some(Self(SocketAddr::new(address.into(), self.0.port())))
    }

    /// The group's address and port. The scope of an IPv6 group is the interface that was named with it, or 0.
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// Whether this is a multicast group, not a broadcast address.
    pub fn is_multicast(self) -> bool {
        self.0.ip().is_multicast()
    }

    /// Whether this is an IPv6 group.
    pub fn is_ipv6(self) -> bool {
        self.0.is_ipv6()
    }

    /// Whether this is an IPv6 group that means nothing without an interface: of link-local scope.
    pub(crate) fn is_link_local(self) -> bool {
        matches!(self.0, SocketAddr::V6(address) if scope(*address.ip()) == LINK_LOCAL)
    }

    /// The interface that an IPv6 group was given with.
    pub(crate) fn zone(self) -> Option<u32> {
        match self.0 {
            SocketAddr::V6(address) if address.scope_id() > 0 => Some(address.scope_id()),
            _ => None,
        }
    }

    /// The address to send to, or to bind to, on an interface.
    pub fn on(self, interface: &Interface) -> SocketAddr {
        match self.0 {
            SocketAddr::V4(_) => self.0,
            SocketAddr::V6(address) => {
                let zone = if self.is_link_local() {
                    interface.index()
                } else {
                    0
                };
                SocketAddrV6::new(*address.ip(), address.port(), 0, zone).into()
            }
        }
    }
}

fn check_v4(ip: Ipv4Addr) -> Result<(), Error> {
    let address = ip.into();
    if ip.is_unspecified() || ip.is_loopback() {
        return Err(Error::NotMulticast { address });
    }
    // RFC 5771, section 4: never forwarded, and never pruned by IGMP snooping (RFC 4541, section 2.1.2).
    match ip.octets() {
        [224, 0, 0, _] => Err(Error::ControlBlock { address }),
        _ => Ok(()),
    }
}

/// Scopes of IPv6 groups (RFC 7346, section 2).
const INTERFACE_LOCAL: u16 = 1;
const LINK_LOCAL: u16 = 2;

fn scope(ip: Ipv6Addr) -> u16 {
    ip.segments()[0] & 15
}

fn check_v6(ip: Ipv6Addr) -> Result<(), Error> {
    let address = ip.into();
    if !ip.is_multicast() {
        return Err(Error::NotMulticast { address });
    }
    if matches!(scope(ip), 0 | INTERFACE_LOCAL | 15) {
        return Err(Error::Scope { address });
    }
    match ip.segments() {
        // All nodes and all routers of each scope, and solicited nodes (RFC 4291, section 2.7.1).
        [0xff00..=0xff0f, 0, 0, 0, 0, 0, 0, 1 | 2]
        | [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _] => Err(Error::ControlBlock { address }),
        _ => Ok(()),
    }
}

impl Default for Group {
    /// 239.192.7.1:7001, in the organization-local scope (RFC 2365, section 6.2).
    fn default() -> Self {
        Self(SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 1), DEFAULT_PORT).into())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Group {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let numbered = number_zone(text)?;
        let address = numbered.parse().or_else(|_| {
            let port = DEFAULT_PORT;
            let with_port = match numbered.contains('.') {
                true => format!("{numbered}:{port}"),
                false => format!("[{numbered}]:{port}"),
            };
            with_port.parse()
        });
        Self::new(address.map_err(|_| Error::BadGroup { text: text.into() })?)
    }
}

/// Replaces the interface's name in `ff02::7%eth0` by its number, which the standard library reads.
fn number_zone(text: &str) -> Result<String, Error> {
    let Some((address, rest)) = text.split_once('%') else {
        return Ok(text.into());
    };
    let end = rest.find(']').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if name.parse::<u32>().is_ok() {
        return Ok(text.into());
    }
    let index = if_nametoindex(name).map_err(|_| Interface::unknown(name))?;
    Ok(format!("{address}%{index}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_group_is_refused_by_its_reason() {
        let parse = |text: &str| text.parse::<Group>().unwrap_err();
        for text in ["eth0", "239.192.7.1:70000", "[ff15::7]", "", "[ff02::7%]:1"] {
            assert!(matches!(parse(text), Error::BadGroup { .. }) || text.contains('%'));
        }
        for text in ["0.0.0.0:7001", "127.0.0.1:7001", "[2001:db8::1]:7001"] {
            assert!(matches!(parse(text), Error::NotMulticast { .. }), "{text}");
        }
        let reserved = [
            "224.0.0.251:7001",
            "[ff02::1]:7001",
            "[ff05::2]:7001",
            "[ff02::1:ff00:17]:7001",
        ];
        for text in reserved {
            assert!(matches!(parse(text), Error::ControlBlock { .. }), "{text}");
        }
        for text in ["[ff10::7]:7001", "[ff11::7]:7001", "ff1f::7"] {
            assert!(matches!(parse(text), Error::Scope { .. }), "{text}");
        }
        assert!(matches!(
            parse("[ff12::7%no-such-if]:7001"),
            Error::NoSuchInterface { .. }
        ));
        assert!(matches!(parse("239.192.7.1:0"), Error::NoPort));
        assert!(matches!(parse("[ff15::7]:0"), Error::NoPort));
    }

    #[test]
    fn display_reads_back() {
        for text in ["239.192.7.1:7001", "192.168.7.255:7001", "[ff15::7]:7001"] {
            let group: Group = text.parse().unwrap();
            assert_eq!(group.to_string(), text);
        }
        let zoned: Group = "[ff12::7%lo]:7001".parse().unwrap();
        assert_eq!(zoned.to_string().parse::<Group>().unwrap(), zoned);
        assert_eq!(zoned.zone(), if_nametoindex("lo").ok());
        assert_eq!("ff12::7%lo".parse::<Group>().unwrap(), zoned);
    }
}
