//! Network interfaces: by name, by address, or the one that the system routes a group to.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::{Error, Group};

/// An interface that is up, with its first IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
    index: u32,
    address: Ipv4Addr,
}

impl Interface {
    /// The interface with this name or IPv4 address; without one, the interface that the system routes `group` to.
    ///
    /// # Errors
    /// [`Error::NoSuchInterface`], [`Error::NoRoute`], [`Error::Interfaces`]
    pub fn find(wanted: Option<&str>, group: Group) -> Result<Self, Error> {
        let all = Self::list()?;
        let (wanted, found) = match wanted {
            Some(wanted) => (wanted.to_owned(), by_name_or_address(&all, wanted)),
            None => {
                let address = routed_address(group).map_err(|source| Error::NoRoute {
                    group: group.address(),
                    existing: names(&all),
                    source,
                })?;
                (
                    address.to_string(),
                    all.iter().find(|interface| interface.address() == address),
                )
            }
        };
        found.cloned().ok_or_else(|| Error::NoSuchInterface {
            wanted,
            existing: names(&all),
        })
    }

    /// All interfaces that are up and have an IPv4 address, one entry for each address, in the order of their indices.
    ///
    /// # Errors
    /// [`Error::Interfaces`]
    pub fn list() -> Result<Vec<Self>, Error> {
        let failed = |errno| Error::Interfaces {
            source: io::Error::from(errno),
        };
        let mut found: BTreeMap<u32, Vec<Self>> = BTreeMap::new();
        for entry in nix::ifaddrs::getifaddrs().map_err(failed)? {
            let Some(address) = entry
                .address
                .as_ref()
                .and_then(|address| address.as_sockaddr_in())
            else {
                continue;
            };
            // An interface may vanish between the two calls.
            let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else {
                continue;
            };
            if entry.flags.contains(InterfaceFlags::IFF_UP) {
                let interface = Self {
                    name: entry.interface_name,
                    index,
                    address: address.ip(),
                };
                found.entry(index).or_default().push(interface);
            }
        }
        Ok(found.into_values().flatten().collect())
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
        IpAddr::V4(self.address)
    }

    pub(crate) fn ipv4(&self) -> Ipv4Addr {
        self.address
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

fn by_name_or_address<'a>(all: &'a [Interface], wanted: &str) -> Option<&'a Interface> {
    let address = wanted.parse::<IpAddr>().ok();
    all.iter()
        .find(|interface| interface.name == wanted || Some(interface.address()) == address)
}

fn names(all: &[Interface]) -> String {
    all.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The address that the system would send to `group` from: connecting a UDP socket sends nothing.
fn routed_address(group: Group) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(group.address())?;
    Ok(socket.local_addr()?.ip())
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
        for wanted in ["no-such-if", "198.51.100.77", "", "::1"] {
            let error = Interface::find(Some(wanted), Group::default()).unwrap_err();
            assert!(matches!(error, Error::NoSuchInterface { .. }));
            assert!(error.to_string().contains("lo (127.0.0.1)"), "{error}");
        }
    }
}
