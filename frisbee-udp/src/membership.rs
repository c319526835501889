//! Membership that lasts: interfaces go down, lose addresses and come back under other numbers, and switches forget.

use std::io;
use std::net::IpAddr;

use socket2::{InterfaceIndexOrAddress, SockRef};

use crate::client::{open_group, open_unicast};
use crate::{ClientSocket, Error, Group, Interface};

/// What has become of the interface of a [`ClientSocket`].
#[derive(Debug)]
#[non_exhaustive]
pub enum LinkChange {
    /// It cannot be used, and this is why. Told once.
    Lost(Error),
    /// It can be used again. The group was joined anew, for switches forget.
    Back(Interface),
    /// It has another number or address, and there are new sockets: requests leave from another address, and
    /// [`ClientSocket::drop_counter`] has to be asked for anew.
    Moved(Interface),
}

pub(crate) fn join(socket: &SockRef<'_>, group: Group, interface: &Interface) -> io::Result<()> {
    let index = interface.index();
    match group.address().ip() {
        IpAddr::V4(ip) => socket.join_multicast_v4_n(&ip, &InterfaceIndexOrAddress::Index(index)),
        IpAddr::V6(ip) => socket.join_multicast_v6(&ip, index),
    }
}

fn leave(socket: &SockRef<'_>, group: Group, interface: &Interface) -> io::Result<()> {
    let index = interface.index();
    match group.address().ip() {
        IpAddr::V4(ip) => socket.leave_multicast_v4_n(&ip, &InterfaceIndexOrAddress::Index(index)),
        IpAddr::V6(ip) => socket.leave_multicast_v6(&ip, index),
    }
}

impl ClientSocket {
    /// Looks after the interface; calling it once a second is enough. The system keeps a membership while its interface
    /// is down, but not when it is taken away, and tells nobody when a cable was out.
    pub fn maintain(&mut self) -> Option<LinkChange> {
        match self.interface.again(self.joined) {
            Err(error) => self.lose(error),
            Ok(now) if !now.is_running() => {
                let name = now.name().to_owned();
                self.lose(Error::NoCarrier { name })
            }
            Ok(now) if !now.is_same_place(&self.interface) => match self.reopen(&now) {
                Ok(()) => {
                    self.lost = false;
                    Some(LinkChange::Moved(now))
                }
                Err(error) => self.lose(error),
            },
            Ok(now) if self.lost => {
                self.lost = false;
                // If it fails, the membership is as it was, which the system keeps.
                let _ = self.rejoin();
                Some(LinkChange::Back(now))
            }
            Ok(_) => None,
        }
    }

    /// Makes the system report the membership to the network again, as if the group had just been joined: where nobody
    /// queries, a switch that snoops forgets it after 260 s (RFC 3376, section 8.4). The leave before it does not get
    /// onto the wire unless there is a querier of an old version. A datagram that comes just then is lost.
    ///
    /// # Errors
    /// What the system says.
    pub fn rejoin(&self) -> io::Result<()> {
        if !self.joined.is_multicast() {
            return Ok(());
        }
        let socket = SockRef::from(self.group.as_tokio());
        // There is nothing to leave on an interface that was taken away.
        let _ = leave(&socket, self.joined, &self.interface);
        join(&socket, self.joined, &self.interface)
    }

    fn lose(&mut self, why: Error) -> Option<LinkChange> {
        let before = std::mem::replace(&mut self.lost, true);
        (!before).then_some(LinkChange::Lost(why))
    }

    fn reopen(&mut self, interface: &Interface) -> Result<(), Error> {
        let unicast = open_unicast(interface, self.options)?;
        let (group, buffer) = open_group(self.joined, interface, self.options)?;
        (self.group, self.unicast, self.buffer) = (group, unicast, buffer);
        self.interface = interface.clone();
        Ok(())
    }
}
