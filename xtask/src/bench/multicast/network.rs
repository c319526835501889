//! The networks that are measured: a cable, and a room behind a line with a rate, each machine a network namespace.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use e2e::command::must;
use e2e::netns::{self, Netns};
use e2e::room::{INTERFACE, Machine};
use serde_json::Value;

/// Bytes of a frame on an Ethernet line that the kernel does not count: check sequence, preamble, gap.
const UNCOUNTED: u32 = 24;

/// What a small switch holds for a port, in bytes.
const PORT_BUFFER: u32 = 256 << 10;

/// A server, and clients that it reaches over one line.
pub(super) struct Network {
    pub(super) server: Machine,
    pub(super) clients: Vec<Machine>,
    /// The switch, if there is one.
    switch: Option<Netns>,
    batches: Batches,
}

/// Whether batches of datagrams pass the line as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batches {
    /// The interface takes what segmentation offload makes: a filter then drops a whole batch.
    Whole,
    /// They are cut before: a filter drops single packets, as lines do.
    Cut,
}

impl Network {
    /// Two machines with a cable, which is as fast as they are.
    pub(super) fn cable() -> Result<Self> {
        netns::sweep()?;
        let (server, client) = (Netns::new("bench-server")?, Netns::new("bench-client")?);
        server.ip(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {}",
            client.name()
        ))?;
        Ok(Self {
            server: machine(server, 1, Batches::Whole)?,
            clients: vec![machine(client, 2, Batches::Whole)?],
            switch: None,
            batches: Batches::Whole,
        })
    }

    /// A server at one switch, clients at another, and between them a line of so many bits per second, counted as
    /// Ethernet does.
    pub(super) fn line(clients: usize, rate: u64, batches: Batches) -> Result<Self> {
        netns::sweep()?;
        let switch = Netns::new("bench-switch")?;
        for bridge in ["near", "far"] {
            // Without a querier, snooping would have to flood everything anyway.
            switch.ip(&format!("link add {bridge} type bridge mcast_snooping 0"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        switch.ip("link add trunk-near type veth peer name trunk-far")?;
        switch.ip("link set trunk-near master near up")?;
        switch.ip("link set trunk-far master far up")?;
        shape(&switch, "trunk-near", rate)?;
        let server = attach(&switch, 1, "near", batches)?;
        let last = u8::try_from(clients + 1).context("too many clients")?;
        let clients = (2..=last).map(|number| attach(&switch, number, "far", batches));
        Ok(Self {
            server,
            clients: clients.collect::<Result<_>>()?,
            switch: Some(switch),
            batches,
        })
    }

    /// Two more machines, at either end of the line.
    pub(super) fn neighbours(&self) -> Result<[Machine; 2]> {
        let switch = self.switch.as_ref().context("there is no switch")?;
        let number = u8::try_from(self.clients.len() + 2).context("too many clients")?;
        Ok([
            attach(switch, number, "near", self.batches)?,
            attach(switch, number + 1, "far", self.batches)?,
        ])
    }

    /// Every client loses so many packets of a hundred, of those that it receives and of those that it sends.
    pub(super) fn lose(&self, percent: u32) -> Result<()> {
        if percent == 0 {
            return Ok(());
        }
        self.clients
            .iter()
            .try_for_each(|client| client.lose(percent * 10))
    }

    /// The port of this client is slower than the line.
    pub(super) fn slow_port(&self, client: usize, rate: u64) -> Result<()> {
        let switch = self.switch.as_ref().context("there is no switch")?;
        shape(switch, &format!("port{}", client + 2), rate)
    }

    /// Bytes that have left the server, frames without what the kernel does not count.
    pub(super) fn sent(&self) -> Result<u64> {
        let shown = self
            .server
            .netns
            .ip(&format!("-s -j link show dev {INTERFACE}"))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let bytes = &shown[0]["stats64"]["tx"]["bytes"];
        bytes.as_u64().context("ip shows no bytes")
    }
}

/// A machine at one end of a line.
fn attach(switch: &Netns, number: u8, bridge: &str, batches: Batches) -> Result<Machine> {
    let netns = Netns::new(&format!("bench-{number}"))?;
    switch.ip(&format!(
        "link add port{number} type veth peer name {INTERFACE} netns {}",
        netns.name()
    ))?;
    switch.ip(&format!("link set port{number} master {bridge} up"))?;
    machine(netns, number, batches)
}

fn machine(netns: Netns, number: u8, batches: Batches) -> Result<Machine> {
    let address = Ipv4Addr::new(10, 78, 0, number);
    if batches == Batches::Cut {
        netns.ip(&format!("link set {INTERFACE} gso_max_segs 1"))?;
    }
    netns.ip(&format!("link set {INTERFACE} up"))?;
    // udpcast finds its peers by broadcast.
    netns.ip(&format!("address add {address}/24 brd + dev {INTERFACE}"))?;
    netns.ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
    Ok(Machine { netns, address })
}

/// Lets an interface send no faster than a line of this rate.
fn shape(netns: &Netns, interface: &str, rate: u64) -> Result<()> {
    // Two milliseconds, what a sender paced by a coarse clock needs.
    let burst = (rate / 8 / 500).max(4 << 10);
    let words = format!(
        "-n {} qdisc add dev {interface} root stab overhead {UNCOUNTED} linklayer ethernet tbf rate {rate}bit burst {burst} limit {PORT_BUFFER}",
        netns.name()
    );
    must("tc", words.split_whitespace()).map(drop)
}
