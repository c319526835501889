//! Multicast group addresses as an operator types them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;

use crate::Error;

/// The port of a group that is given without one.
pub const DEFAULT_PORT: u16 = 7001;

/// An IPv4 multicast group and UDP port.
///
/// ```
/// let group: frisbee_udp::Group = "239.192.7.1:7001".parse()?;
/// assert_eq!(group, "239.192.7.1".parse()?);
/// assert!("10.0.0.1:7001".parse::<frisbee_udp::Group>().is_err());
/// # Ok::<(), frisbee_udp::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(SocketAddrV4);

impl Group {
    /// Checks that `address` is a multicast group that a transfer may use.
    ///
    /// # Errors
    /// [`Error::NotMulticast`], [`Error::ControlBlock`], [`Error::NoPort`], [`Error::Ipv6`]
    pub fn new(address: SocketAddr) -> Result<Self, Error> {
        let ip = address.ip();
        if !ip.is_multicast() {
            return Err(Error::NotMulticast { address: ip });
        }
        let SocketAddr::V4(address) = address else {
            return Err(Error::Ipv6 { address: ip });
        };
        // RFC 5771, section 4: never forwarded, and never pruned by IGMP snooping (RFC 4541, section 2.1.2).
        if address.ip().octets().starts_with(&[224, 0, 0]) {
            return Err(Error::ControlBlock { address: ip });
        }
        match address.port() {
            0 => Err(Error::NoPort),
            _ => Ok(Self(address)),
        }
    }

    /// The group's address and port.
    pub fn address(self) -> SocketAddr {
        SocketAddr::V4(self.0)
    }

    pub(crate) fn ip(self) -> Ipv4Addr {
        *self.0.ip()
    }
}

impl Default for Group {
    /// 239.192.7.1:7001, in the organization-local scope (RFC 2365, section 6.2).
    fn default() -> Self {
        Self(SocketAddrV4::new(
            Ipv4Addr::new(239, 192, 7, 1),
            DEFAULT_PORT,
        ))
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
        let address = match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let ip = text
                    .parse::<IpAddr>()
                    .map_err(|_| Error::BadGroup { text: text.into() })?;
                SocketAddr::new(ip, DEFAULT_PORT)
            }
        };
        Self::new(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_group_is_refused_by_its_reason() {
        let parse = |text: &str| text.parse::<Group>().unwrap_err();
        assert!(matches!(parse("eth0"), Error::BadGroup { .. }));
        assert!(matches!(parse("239.192.7.1:70000"), Error::BadGroup { .. }));
        assert!(matches!(
            parse("192.0.2.1:7001"),
            Error::NotMulticast { .. }
        ));
        assert!(matches!(
            parse("[2001:db8::1]:7001"),
            Error::NotMulticast { .. }
        ));
        assert!(matches!(parse("[ff15::7]:7001"), Error::Ipv6 { .. }));
        assert!(matches!(
            parse("224.0.0.251:7001"),
            Error::ControlBlock { .. }
        ));
        assert!(matches!(parse("239.192.7.1:0"), Error::NoPort));
    }

    #[test]
    fn display_reads_back() {
        let group = Group::default();
        assert_eq!(group.to_string().parse::<Group>().unwrap(), group);
    }
}
