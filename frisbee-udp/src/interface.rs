//! Network interfaces: by name, by address, or the one that the system routes a group to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::{Error, Group};

/// An interface that is up, with the address that is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
    index: u32,
    address: IpAddr,
    /// Bits of its address that are those of its network.
    prefix: u32,
    broadcast: Option<Ipv4Addr>,
    multicast: bool,
    running: bool,
}

/// An interface, up or down, with all its addresses.
#[derive(Debug)]
struct Link {
    name: String,
    index: u32,
    flags: InterfaceFlags,
    addresses: Vec<Address>,
}

#[derive(Clone, Copy, Debug)]
struct Address {
    ip: IpAddr,
    prefix: u32,
    broadcast: Option<Ipv4Addr>,
}

impl Interface {
    /// The interface with this name or address (of either family; with it, of the addresses of the group's family that
    /// one); without one, the interface that the system routes `group` to.
    ///
    /// # Errors
    /// [`Error::NoSuchInterface`], [`Error::InterfaceDown`], [`Error::NoAddress`], [`Error::NotBroadcast`],
    /// [`Error::NoRoute`], [`Error::ZoneNeeded`], [`Error::OtherZone`], [`Error::Interfaces`]
    pub fn find(wanted: Option<&str>, group: Group) -> Result<Self, Error> {
        let links = links()?;
        let link = match wanted {
            Some(wanted) => {
                let link = by_name_or_address(&links, wanted);
                link.ok_or_else(|| no_such(wanted, &links))?
            }
            None => default_link(&links, group)?,
        };
        if group.zone().is_some_and(|zone| zone != link.index) {
            return Err(Error::OtherZone {
                group: group.address(),
                name: link.name.clone(),
            });
        }
        if !link.flags.contains(InterfaceFlags::IFF_UP) {
            return Err(Error::InterfaceDown {
                name: link.name.clone(),
            });
        }
        let wanted = wanted.and_then(address_of);
        let interface = link.with(wanted, group).ok_or_else(|| Error::NoAddress {
            name: link.name.clone(),
            family: family(group),
        })?;
        if !group.is_multicast() && !interface.broadcasts_to(group) {
            return Err(not_broadcast(group, &links));
        }
        Ok(interface)
    }

    /// The same interface as it is now: it may have another number, or another address.
    ///
    /// # Errors
    /// As [`Interface::find`]
    pub(crate) fn again(&self, group: Group) -> Result<Self, Error> {
        let found = Self::find(Some(&self.name), group)?;
        // Another address may suit as well, but as long as there is this one, others know it.
        let same = Self::list()?
            .into_iter()
            .find(|interface| interface.name == self.name && interface.address == self.address);
        Ok(same.unwrap_or(found))
    }

    /// All interfaces that are up and have an address, one entry for each address, in the order of their indices.
    ///
    /// # Errors
    /// [`Error::Interfaces`]
    pub fn list() -> Result<Vec<Self>, Error> {
        let links = links()?;
        let up = links
            .iter()
            .filter(|link| link.flags.contains(InterfaceFlags::IFF_UP));
        Ok(up.flat_map(Link::interfaces).collect())
    }

    /// The address that the system sends from to another one, and so the interface: connecting sends nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn address_towards(destination: SocketAddr) -> io::Result<IpAddr> {
        let any: IpAddr = match destination {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_broadcast(true)?;
        socket.connect(destination)?;
        Ok(socket.local_addr()?.ip())
    }

    pub(crate) fn unknown(wanted: &str) -> Error {
        match links() {
            Ok(links) => no_such(wanted, &links),
            Err(error) => error,
        }
    }

    /// The system's name, such as `eth0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The system's number for it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its address, from which datagrams are sent.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The broadcast address that belongs to its address.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        self.broadcast
    }

    /// Whether another address is in the network of its address: no router is between.
    pub fn is_neighbour(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(_), IpAddr::V6(other)) if other.is_unicast_link_local() => true,
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }

    /// Checks that the interface has a carrier and says that it can send to a group. (Loopback does not say so, and can.)
    ///
    /// # Errors
    /// [`Error::NoCarrier`], [`Error::NoMulticast`]
    pub fn can_send_to(&self, group: Group) -> Result<(), Error> {
        let name = || self.name.clone();
        if !self.running {
            return Err(Error::NoCarrier { name: name() });
        }
        match self.multicast || !group.is_multicast() {
            true => Ok(()),
            false => Err(Error::NoMulticast { name: name() }),
        }
    }

    /// Whether it has a carrier: a cable, and something that is switched on at its other end.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Whether sockets of the one work on the other.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        (self.index, self.address, self.broadcast) == (other.index, other.address, other.broadcast)
    }

    /// Its address with a port, to bind to.
    pub(crate) fn socket_address(&self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, self.index).into()
            }
            IpAddr::V6(ip) => (ip, port).into(),
        }
    }

    fn broadcasts_to(&self, group: Group) -> bool {
        match (self.broadcast, group.address().ip()) {
            (Some(own), IpAddr::V4(ip)) => ip == own || ip.is_broadcast(),
            _ => false,
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

impl Link {
    fn interfaces(&self) -> impl Iterator<Item = Interface> + '_ {
        let flags = self.flags;
        self.addresses.iter().map(move |address| Interface {
            name: self.name.clone(),
            index: self.index,
            address: address.ip,
            prefix: address.prefix,
            broadcast: address.broadcast,
            multicast: flags
                .intersects(InterfaceFlags::IFF_MULTICAST | InterfaceFlags::IFF_LOOPBACK),
            running: flags.contains(InterfaceFlags::IFF_RUNNING),
        })
    }

    /// With the address that suits a group best; with the wanted one if it has that.
    fn with(&self, wanted: Option<IpAddr>, group: Group) -> Option<Interface> {
        let suits = |interface: &Interface| interface.address.is_ipv6() == group.is_ipv6();
        let order = |interface: &Interface| {
            let is_link_local =
                matches!(interface.address, IpAddr::V6(ip) if ip.is_unicast_link_local());
            (
                wanted != Some(interface.address),
                !group.is_multicast() && !interface.broadcasts_to(group),
                // To a group of the link from an address of the link, to others from one that is known beyond it.
                is_link_local != group.is_link_local(),
            )
        };
        self.interfaces().filter(suits).min_by_key(order)
    }
}

/// All interfaces, in the order of their indices.
fn links() -> Result<Vec<Link>, Error> {
    let failed = |errno| Error::Interfaces {
        source: io::Error::from(errno),
    };
    let mut found: BTreeMap<u32, Link> = BTreeMap::new();
    for entry in nix::ifaddrs::getifaddrs().map_err(failed)? {
        // An interface may vanish between the two calls.
        let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else {
            continue;
        };
        let link = found.entry(index).or_insert_with(|| Link {
            name: entry.interface_name.clone(),
            index,
            flags: entry.flags,
            addresses: Vec::new(),
        });
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            let given = entry
                .broadcast
                .and_then(|address| Some(address.as_sockaddr_in()?.ip()));
            let mask = entry
                .netmask
                .and_then(|address| Some(address.as_sockaddr_in()?.ip()));
            // Without one, glibc gives the interface's own address; on a line, that of the other end.
            let given = given.filter(|&address| address != v4.ip());
            let can = entry.flags.contains(InterfaceFlags::IFF_BROADCAST);
            let broadcast = given
                .or_else(|| broadcast_of(v4.ip(), mask?))
                .filter(|_| can);
            link.addresses.push(Address {
                ip: v4.ip().into(),
                prefix: mask.map_or(32, |mask| mask.to_bits().count_ones()),
                broadcast,
            });
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let mask = entry
                .netmask
                .and_then(|address| Some(address.as_sockaddr_in6()?.ip()));
            link.addresses.push(Address {
                ip: v6.ip().into(),
                prefix: mask.map_or(128, |mask| mask.to_bits().count_ones()),
                broadcast: None,
            });
        }
    }
    Ok(found.into_values().collect())
}

/// The last address of a network, which the system takes for broadcast even if it was not told (RFC 1122, section 3.2.1.3).
fn broadcast_of(address: Ipv4Addr, mask: Ipv4Addr) -> Option<Ipv4Addr> {
    (mask.to_bits().count_ones() < 31).then(|| address | !mask)
}

/// `fe80::1%eth0` without its interface.
fn address_of(text: &str) -> Option<IpAddr> {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse().ok()
}

fn by_name_or_address<'a>(links: &'a [Link], wanted: &str) -> Option<&'a Link> {
    let zone = wanted.split_once('%').map(|(_, zone)| zone);
    let address = address_of(wanted);
    links.iter().find(|link| {
        let has = link.addresses.iter().any(|own| Some(own.ip) == address);
        let in_zone =
            zone.is_none_or(|zone| link.name == zone || zone.parse() == Ok::<u32, _>(link.index));
        link.name == wanted || (has && in_zone)
    })
}

/// The interface that a group is on if nobody says which.
fn default_link(links: &[Link], group: Group) -> Result<&Link, Error> {
    let unrouted = |source| Error::NoRoute {
        group: group.address(),
        existing: names(links),
        source,
    };
    if let Some(zone) = group.zone() {
        let found = links.iter().find(|link| link.index == zone);
        return found.ok_or_else(|| no_such(&zone.to_string(), links));
    }
    if group.is_link_local() {
        return Err(Error::ZoneNeeded {
            group: group.address(),
            existing: names(links),
        });
    }
    let broadcasts = |link: &&Link| {
        link.interfaces()
            .any(|interface| interface.broadcasts_to(group))
    };
    if let (false, IpAddr::V4(ip)) = (group.is_multicast(), group.address().ip())
        && !ip.is_broadcast()
    {
        let found = links.iter().find(broadcasts);
        return found.ok_or_else(|| not_broadcast(group, links));
    }
    let address = Interface::address_towards(group.address()).map_err(unrouted)?;
    by_name_or_address(links, &address.to_string())
        .ok_or_else(|| no_such(&address.to_string(), links))
}

fn family(group: Group) -> &'static str {
    if group.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn no_such(wanted: &str, links: &[Link]) -> Error {
    Error::NoSuchInterface {
        wanted: wanted.into(),
        existing: names(links),
    }
}

fn not_broadcast(group: Group, links: &[Link]) -> Error {
    let known: Vec<String> = links
        .iter()
        .flat_map(Link::interfaces)
        .filter_map(|interface| Some(format!("{} ({})", interface.broadcast?, interface.name)))
        .collect();
    Error::NotBroadcast {
        address: group.address().ip(),
        known: known.join(", "),
    }
}

fn names(links: &[Link]) -> String {
    let up = links
        .iter()
        .filter(|link| link.flags.contains(InterfaceFlags::IFF_UP));
    up.flat_map(Link::interfaces)
        .map(|interface| interface.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_by_address() {
        let group = Group::default();
        let by_name = Interface::find(Some("lo"), group).unwrap();
        let by_address = Interface::find(Some("127.0.0.1"), group).unwrap();
        assert_eq!(by_name, by_address);
        assert_eq!(by_name.address(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn an_unknown_interface_is_answered_with_those_that_exist() {
        for wanted in ["no-such-if", "198.51.100.77", "", "::7", "127.0.0.1%eth77"] {
            let error = Interface::find(Some(wanted), Group::default()).unwrap_err();
            assert!(matches!(error, Error::NoSuchInterface { .. }));
            assert!(error.to_string().contains("lo (127.0.0.1)"), "{error}");
        }
    }

    #[test]
    fn an_address_that_nobody_broadcasts_to_is_no_group() {
        let group: Group = "198.51.100.77:7001".parse().unwrap();
        for wanted in [None, Some("lo")] {
            let error = Interface::find(wanted, group).unwrap_err();
            assert!(matches!(error, Error::NotBroadcast { .. }), "{error}");
        }
    }

    #[test]
    fn a_group_of_the_link_needs_one_interface() {
        let group: Group = "[ff12::7]:7001".parse().unwrap();
        let error = Interface::find(None, group).unwrap_err();
        assert!(matches!(error, Error::ZoneNeeded { .. }), "{error}");
    }

    #[test]
    fn a_network_has_a_broadcast_address_unless_it_is_a_line() {
        let mask = |bits: u32| Ipv4Addr::from_bits(u32::MAX << (32 - bits));
        let address = Ipv4Addr::new(10, 77, 3, 9);
        for (bits, broadcast) in [
            (24, Some(Ipv4Addr::new(10, 77, 3, 255))),
            (22, Some(Ipv4Addr::new(10, 77, 3, 255))),
            (30, Some(Ipv4Addr::new(10, 77, 3, 11))),
            (31, None),
            (32, None),
        ] {
            assert_eq!(broadcast_of(address, mask(bits)), broadcast, "/{bits}");
        }
    }

    /// Interfaces as they may be: this machine's own are not known.
    #[test]
    fn the_address_suits_the_group() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text: &str, prefix, broadcast| Address {
            ip: ip(text),
            prefix,
            broadcast,
        };
        let link = Link {
            name: "eth0".into(),
            index: 7,
            flags: InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST,
            addresses: vec![
                address("10.0.0.1", 24, Some(Ipv4Addr::new(10, 0, 0, 255))),
                address("10.1.0.1", 24, Some(Ipv4Addr::new(10, 1, 0, 255))),
                address("fe80::1", 64, None),
                address("2001:db8::1", 64, None),
            ],
        };
        for (group, wanted, address) in [
            ("239.192.7.1", None, "10.0.0.1"),
            ("239.192.7.1", Some("10.1.0.1"), "10.1.0.1"),
            ("239.192.7.1", Some("fe80::1"), "10.0.0.1"),
            ("10.1.0.255", None, "10.1.0.1"),
            ("ff15::7", None, "2001:db8::1"),
            ("ff15::7", Some("fe80::1"), "fe80::1"),
            ("ff12::7", None, "fe80::1"),
            ("ff12::7", Some("10.1.0.1"), "fe80::1"),
        ] {
            let found = link.with(wanted.map(ip), group.parse().unwrap()).unwrap();
            assert_eq!(found.address(), ip(address), "{group} {wanted:?}");
        }
        let found = link.with(None, Group::default()).unwrap();
        assert!(found.is_neighbour(ip("10.0.0.255")) && !found.is_neighbour(ip("10.0.1.1")));
        let found = link.with(None, "ff15::7".parse().unwrap()).unwrap();
        assert!(found.is_neighbour(ip("2001:db8::ff")) && found.is_neighbour(ip("fe80::7")));
        assert!(!found.is_neighbour(ip("2001:db8:0:1::1")) && !found.is_neighbour(ip("10.0.0.7")));
    }
}
