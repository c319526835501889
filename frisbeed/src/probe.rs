//! `frisbeed --probe`: sockets and a clock around [`frisbee_proto::probe::ProbeServer`], without any image.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure};
use frisbee_proto::probe::wire::Way;
use frisbee_proto::probe::{ProbeOutput, ProbeServer, ProbeServerConfig, ProbeTarget, Seen};
use frisbee_udp::{
    BATCH_BYTES_MAX, ClientOptions, ClientSocket, Group, Interface, RecvBatch, ServerOptions,
    ServerSocket, Throttle,
};
use serde_json::{Value, json};
use tokio::time::sleep_until;

use crate::Cli;
use crate::signals::Signals;

/// The highest rate that is tried without `--rate`, in bits per second.
const CEILING: u64 = 1_000_000_000;

/// Batches sent before replies are looked at again.
const BATCHES_PER_TURN: usize = 8;

struct Probing {
    socket: ServerSocket,
    /// Where clients ask that do not know the server: the group and the broadcast address.
    ears: Vec<ClientSocket>,
    all_hosts: SocketAddr,
    machine: ProbeServer,
    progress: Progress,
    trouble: Throttle,
    last_reply: Instant,
    buffer: Vec<u8>,
}

/// Probes the network until a signal or `--exit-after` ends it.
pub(crate) async fn probe(cli: &Cli) -> Result<(), Failure> {
    let failed = |error: frisbee_udp::Error| Failure::new(Exit::Network, error);
    let group: Group = cli.group.parse().map_err(failed)?;
    let interface = &Interface::find(cli.interface.as_deref(), group).map_err(failed)?;
    let mut signals = Signals::catch()?;
    interface.can_send_to(group).map_err(failed)?;
    let options = ServerOptions {
        ttl: cli.ttl,
        ..ServerOptions::default()
    };
    let socket = ServerSocket::open(group, interface, options).map_err(failed)?;
    let join = |group| ClientSocket::join(group, interface, ClientOptions::default());
    let mut ears = vec![join(group).map_err(failed)?];
    // Without it a client just has one way less to be heard.
    let broadcast = group.broadcast(interface).filter(|&other| other != group);
    ears.extend(broadcast.and_then(|broadcast| join(broadcast).ok()));
    let requests = socket
        .local_address()
        .map_err(|error| Failure::new(Exit::Network, error))?;
    let config = ProbeServerConfig {
        ceiling: cli.rate.unwrap_or(CEILING),
        ttl: cli.ttl,
        framing: frisbee_proto::framing(group.address().ip()),
        seed: getrandom::u64().map_err(|error| Failure::new(Exit::Internal, error))?,
        ..ProbeServerConfig::default()
    };
    let fields = json!({
        "probe": true,
        "group": group.to_string(),
        "interface": interface.name(),
        "requests": requests.to_string(),
        "rate": config.ceiling,
    });
    let progress = Progress::start(cli.events(), 0, fields);
    if !cli.json {
        progress.line(&format!(
            "frisbeed: probing {group} on {interface}, replies to {requests}: start frisbee-client --probe elsewhere"
        ));
    }
    let now = Instant::now();
    let mut probing = Probing {
        socket,
        ears,
        all_hosts: group.all_hosts().on(interface),
        machine: ProbeServer::new(now, config),
        progress,
        trouble: Throttle::new(Duration::from_secs(2)),
        last_reply: now,
        buffer: Vec::with_capacity(BATCH_BYTES_MAX),
    };
    let exit_after = cli.exit_after.map(Duration::from_secs);
    tokio::select! {
        () = probing.run(exit_after) => {}
        () = signals.recv() => {}
    }
    probing.conclude()
}

impl Probing {
    async fn run(&mut self, exit_after: Option<Duration>) {
        let mut batches = [RecvBatch::new(), RecvBatch::new(), RecvBatch::new()];
        loop {
            let until = self.send().await;
            let exit = exit_after.and_then(|after| self.last_reply.checked_add(after));
            if exit.is_some_and(|exit| Instant::now() >= exit) {
                return;
            }
            let until = exit.map_or(until, |exit| exit.min(until));
            let [direct, group, broadcast] = &mut batches;
            let received = tokio::select! {
                received = self.socket.recv(direct) => received.map(|()| &*direct),
                received = hear(self.ears.first(), group) => received.map(|()| &*group),
                received = hear(self.ears.get(1), broadcast) => received.map(|()| &*broadcast),
                () = wait_until(until) => continue,
            };
            let now = Instant::now();
            match received {
                Ok(batch) => {
                    for datagram in batch.datagrams() {
                        let (from, bytes) = (datagram.from, datagram.bytes);
                        if self.machine.handle_datagram(now, from, bytes) {
                            self.last_reply = now;
                        }
                    }
                }
                Err(error) => self.tell(now, &format!("cannot receive replies: {error}")),
            }
        }
    }

    /// Sends what is due, at most some batches of it. Returns when to come back.
    async fn send(&mut self) -> Instant {
        for _ in 0..BATCHES_PER_TURN {
            let now = Instant::now();
            match self.machine.poll(now, &mut self.buffer) {
                ProbeOutput::Send { to, segment } => {
                    let bytes = &self.buffer;
                    let sent = match to {
                        ProbeTarget::Group => self.socket.multicast(bytes, segment).await,
                        ProbeTarget::AllHosts => {
                            self.socket.send_to(self.all_hosts, bytes, segment).await
                        }
                        ProbeTarget::Unicast(to) => self.socket.send_to(to, bytes, segment).await,
                        ProbeTarget::Broadcast => Ok(()),
                    };
                    if let Err(error) = sent {
                        self.tell(now, &cannot_send(to, segment, &error));
                    }
                }
                ProbeOutput::Finished => self.tell_clients(),
                ProbeOutput::Wait(until) => return until,
            }
        }
        // More is due at once. The runtime sees new replies only if it is given the chance to look.
        tokio::task::yield_now().await;
        Instant::now()
    }

    fn tell(&mut self, now: Instant, what: &str) {
        if self.trouble.pass(now).is_some() {
            self.progress.line(&format!("frisbeed: {what}"));
        }
    }

    /// What the clients of the run that is over have said.
    fn tell_clients(&self) {
        for seen in self.machine.clients().filter(|seen| seen.takes_part) {
            self.progress.emit("client", client_fields(seen));
            self.progress.line(&format!(
                "frisbeed: {}: {}",
                seen.address,
                match seen.reply.group {
                    0 => "nothing of the group has reached it, see its own report".into(),
                    count => format!(
                        "{count} datagrams of the group have reached it, of up to {} bytes",
                        seen.reply.largest
                    ),
                }
            ));
        }
    }

    fn conclude(&self) -> Result<(), Failure> {
        let clients: Vec<&Seen> = self.machine.clients().collect();
        let reached = clients
            .iter()
            .filter(|seen| seen.reply.group > 0 && seen.heard & Way::Unicast.bit() != 0)
            .count();
        let count = clients.len();
        let fields = json!({ "clients": count, "reached": reached });
        let failure = |text: String| Err(self.progress.fail(Failure::new(Exit::Network, text)));
        match count {
            0 => failure(
                "no frisbee-client --probe was heard: is one running on this group, and does the firewall of this machine \
                 let UDP to this port in?"
                    .into(),
            ),
            _ if reached < count => failure(format!(
                "multicast works with {reached} of {count} clients: their own reports say why"
            )),
            _ => {
                let summary = format!("frisbeed: multicast works with all clients probed ({count})");
                self.progress.finish(&summary, fields);
                Ok(())
            }
        }
    }
}

fn client_fields(seen: &Seen) -> Value {
    json!({
        "address": seen.address.to_string(),
        "group_datagrams": seen.reply.group,
        "all_hosts_datagrams": seen.reply.all_hosts,
        "largest": seen.reply.largest,
        "heard_unicast": seen.heard & Way::Unicast.bit() != 0,
        "heard_group": seen.heard & Way::Group.bit() != 0,
        "heard_broadcast": seen.heard & Way::Broadcast.bit() != 0,
    })
}

fn cannot_send(to: ProbeTarget, segment: usize, error: &io::Error) -> String {
    let target = match to {
        ProbeTarget::Unicast(to) => to.to_string(),
        _ => "the group".into(),
    };
    match error.raw_os_error() {
        Some(nix::libc::EMSGSIZE) => format!(
            "datagrams of {segment} bytes are larger than the MTU of this machine's interface or of the path: raise it to 1500"
        ),
        Some(nix::libc::EPERM) => {
            format!("a firewall of this machine forbids sending to {target}")
        }
        _ => format!("cannot send to {target}: {error}"),
    }
}

async fn hear(ear: Option<&ClientSocket>, batch: &mut RecvBatch) -> io::Result<()> {
    match ear {
        Some(ear) => ear.recv(batch).await,
        None => std::future::pending().await,
    }
}

/// Waits until `deadline`, or not at all if that has passed: tokio's timers would take a millisecond.
async fn wait_until(deadline: Instant) {
    if deadline > Instant::now() {
        sleep_until(deadline.into()).await;
    }
}
