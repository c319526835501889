//! An image and the sockets at which it is served.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use frisbee_cli::{Exit, Failure};
use frisbee_udp::{
    ClientOptions, ClientSocket, Group, Interface, RecvBatch, ServerOptions, ServerSocket,
};

use crate::cli::Cli;
use crate::image::ImageFile;

/// One image, its group, and the sockets.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) file: PathBuf,
    pub(crate) image: Arc<ImageFile>,
    pub(crate) group: Group,
    pub(crate) interface: Interface,
    pub(crate) requests: SocketAddr,
    socket: ServerSocket,
    /// What other servers say to the group, for a standby.
    listener: Option<ClientSocket>,
}

/// Where datagrams have come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Group,
}

/// Opens all images, then all sockets. Needs the context of a tokio runtime.
pub(crate) fn open(cli: &Cli) -> Result<Vec<Outlet>, Failure> {
    let network = |error: frisbee_udp::Error| Failure::new(Exit::Network, error);
    let mut groups = HashSet::new();
    let mut places = Vec::new();
    for served in cli.served() {
        let group: Group = served.group.parse().map_err(network)?;
        let interface = Interface::find(cli.interface.as_deref(), group).map_err(network)?;
        if !groups.insert(group) {
            let text = format!("two images for {group}: give each a group or a port of its own");
            return Err(Failure::new(Exit::Usage, text));
        }
        let image = Arc::new(ImageFile::open(&served.image)?);
        places.push((served.image, image, group, interface));
    }
    let outlets = places.into_iter().map(|(file, image, group, interface)| {
        let options = ServerOptions {
            ttl: cli.ttl,
            ..ServerOptions::default()
        };
        let socket = ServerSocket::open(group, &interface, options).map_err(network)?;
        let listener = cli
            .standby
            .then(|| ClientSocket::join(group, &interface, ClientOptions::default()));
        Ok(Outlet {
            file,
            image,
            group,
            requests: socket
                .local_address()
                .map_err(|error| Failure::new(Exit::Network, error))?,
            interface,
            socket,
            listener: listener.transpose().map_err(network)?,
        })
    });
    outlets.collect()
}

impl Outlet {
    /// Sends a batch to one client, or to the group.
    pub(crate) async fn send(
        &self,
        to: Option<SocketAddr>,
        bytes: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        match to {
            Some(client) => self.socket.send_to(client, bytes, segment).await,
            None => self.socket.multicast(bytes, segment).await,
        }
    }

    /// Which of the sockets has something.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Side>> {
        if let Poll::Ready(ready) = self.socket.poll_ready(context) {
            return Poll::Ready(ready.map(|()| Side::Requests));
        }
        match &self.listener {
            Some(listener) => listener
                .poll_ready(context)
                .map(|ready| ready.map(|()| Side::Group)),
            None => Poll::Pending,
        }
    }

    /// Takes what is there.
    pub(crate) fn receive(&self, side: Side, batch: &mut RecvBatch) -> io::Result<()> {
        match (side, &self.listener) {
            (Side::Group, Some(listener)) => listener.try_recv(batch),
            _ => self.socket.try_recv(batch),
        }
    }
}
