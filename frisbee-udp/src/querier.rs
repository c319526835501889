//! Listening for whoever asks who is in which group: without such queries, switches that snoop stop forwarding.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::{Group, Interface};

/// Time between two general queries unless a network says otherwise (RFC 3376, section 8.2; RFC 3810, section 9.2).
pub const QUERY_INTERVAL: Duration = Duration::from_secs(125);

/// Messages looked at in one go: others' reports come to the same socket.
const MESSAGES_MAX: usize = 256;

const IGMP_QUERY: u8 = 0x11;
const IGMP_LEAVE: u8 = 0x17;
const MLD_QUERY: u8 = 130;

/// Hears the queries of IGMP (for IPv4 groups) or MLD (IPv6) on one interface.
#[derive(Debug)]
pub struct QuerierWatch {
    socket: Socket,
    decoy: Option<Decoy>,
}

/// A group of ours that is not used for anything, see [`QuerierWatch::solicit`].
#[derive(Debug)]
struct Decoy {
    group: Ipv4Addr,
    source: Ipv4Addr,
}

impl QuerierWatch {
    /// Begins to listen on the interface of a group.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`; else what the system says.
    pub fn open(group: Group, interface: &Interface) -> io::Result<Self> {
        let (domain, protocol) = match group.is_ipv6() {
            true => (Domain::IPV6, Protocol::ICMPV6),
            false => (Domain::IPV4, Protocol::from(nix::libc::IPPROTO_IGMP)),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind_device_by_index_v4(NonZeroU32::new(interface.index()))?;
        Ok(Self {
            socket,
            decoy: None,
        })
    }

    /// Who has queried since the last call, if anybody has. The address of a switch that has none is 0.0.0.0.
    pub fn heard(&self) -> Option<IpAddr> {
        let mut buffer = [0_u8; 2048];
        let mut querier = None;
        for _ in 0..MESSAGES_MAX {
            let received = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer);
            let Ok((length, from)) = received else {
                break;
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            let v6 = from.as_ref().and_then(|from| from.as_sockaddr_in6());
            let found = match v6 {
                Some(from) => is_mld_query(bytes).then(|| from.ip().into()),
                None => igmp_query(bytes).map(IpAddr::V4),
            };
            querier = found.or(querier);
        }
        querier
    }

    /// Provokes a query, so that a querier is known at once: joins a group that nobody uses, and says on the second
    /// call and every one after it that this machine has left it, upon which a querier asks who is still there (RFC
    /// 2236, section 3). A report needs some time to get onto the wire: call it again after 300 ms or more. Does nothing
    /// for IPv6, where one can only wait.
    ///
    /// # Errors
    /// What the system says.
    pub fn solicit(&mut self, group: Group, interface: &Interface) -> io::Result<()> {
        let (SocketAddr::V4(group), IpAddr::V4(source)) = (group.address(), interface.address())
        else {
            return Ok(());
        };
        if let Some(decoy) = &self.decoy {
            return self.leave(decoy);
        }
        // Of another Ethernet address than the group's own.
        let bits = group.ip().to_bits() ^ 0x5555;
        let decoy = Ipv4Addr::from_bits(bits & 0x0f_ffff | 0xefc0_0000);
        let index = InterfaceIndexOrAddress::Index(interface.index());
        self.socket.join_multicast_v4_n(&decoy, &index)?;
        self.socket.set_multicast_if_v4(&source)?;
        self.socket.set_header_included_v4(true)?;
        self.decoy = Some(Decoy {
            group: decoy,
            source,
        });
        Ok(())
    }

    fn leave(&self, decoy: &Decoy) -> io::Result<()> {
        let routers = Ipv4Addr::new(224, 0, 0, 2);
        // The system fills in identification and checksum (raw(7)).
        let mut packet = vec![0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0, 0];
        packet.extend(decoy.source.octets());
        packet.extend(routers.octets());
        // Router alert (RFC 2113).
        packet.extend([0x94, 4, 0, 0]);
        packet.extend(leave_message(decoy.group));
        let to = SocketAddr::from((routers, 0));
        self.socket.send_to(&packet, &to.into()).map(drop)
    }
}

/// An IGMP version 2 message: this machine has left the group.
fn leave_message(group: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = group.octets();
    let words = [
        u16::from_be_bytes([IGMP_LEAVE, 0]),
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
    ];
    let sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!folded).to_be_bytes();
    [IGMP_LEAVE, 0, high, low, a, b, c, d]
}

/// The source of an IPv4 packet that is an IGMP query.
fn igmp_query(packet: &[u8]) -> Option<Ipv4Addr> {
    let header = usize::from(packet.first()? & 15) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    (*packet.get(header)? == IGMP_QUERY).then(|| source.into())
}

fn is_mld_query(message: &[u8]) -> bool {
    message.first() == Some(&MLD_QUERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tshark decodes it: checksum right, group 239.192.7.1.
    #[test]
    fn a_leave_has_the_checksum_of_rfc_1071() {
        let message = leave_message(Ipv4Addr::new(239, 192, 7, 1));
        assert_eq!(message, [0x17, 0, 0xf2, 0x3d, 239, 192, 7, 1]);
        let total: u32 = message
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((total & 0xffff) + (total >> 16), 0xffff);
    }

    #[test]
    fn queries_are_told_from_reports() {
        let mut packet = vec![0x46; 24];
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet.extend([IGMP_QUERY, 100, 0, 0, 0, 0, 0, 0]);
        assert_eq!(igmp_query(&packet), Some(Ipv4Addr::new(10, 0, 0, 1)));
        packet[24] = 0x22;
        assert_eq!(igmp_query(&packet), None);
        for length in 0..24 {
            assert_eq!(igmp_query(&packet[..length]), None);
        }
        assert!(is_mld_query(&[130, 0]));
        assert!(!is_mld_query(&[143, 0]) && !is_mld_query(&[]));
    }
}
