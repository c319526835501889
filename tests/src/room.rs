//! A room: a switch, and machines at it that can lose packets, each a network namespace.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command::{LIMIT, system};
use crate::netns::{self, Netns};

/// Rooms made by this process.
static ROOMS: AtomicU32 = AtomicU32::new(0);

/// The interface of every machine.
pub const INTERFACE: &str = "eth0";

/// A machine at the switch.
#[derive(Debug)]
pub struct Machine {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
}

/// The switch. Dropping it disconnects the machines.
#[derive(Debug)]
pub struct Room {
    number: u32,
    switch: Netns,
    ports: AtomicU32,
}

impl Room {
    /// An empty room.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new() -> Result<Self> {
        netns::sweep()?;
        let number = ROOMS.fetch_add(1, Ordering::Relaxed);
        let switch = Netns::new(&format!("{number}-switch"))?;
        // Without a querier, snooping would have to flood everything anyway.
        switch.ip("link add bridge type bridge mcast_snooping 0")?;
        switch.ip("link set bridge up")?;
        Ok(Self {
            number,
            switch,
            ports: AtomicU32::new(0),
        })
    }

    /// The switch's namespace, where each machine has a port `port0`, `port1`, ... on `bridge`.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// Connects one more machine.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn machine(&self) -> Result<Machine> {
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        let host = u8::try_from(port + 1).context("the room is full")?;
        let address = Ipv4Addr::new(10, 77, 0, host);
        let netns = Netns::new(&format!("{}-{port}", self.number))?;
        self.switch.ip(&format!(
            "link add port{port} type veth peer name {INTERFACE} netns {}",
            netns.name()
        ))?;
        self.switch
            .ip(&format!("link set port{port} master bridge up"))?;
        // Batches leave as single packets: where one is lost, not all are.
        netns.ip(&format!("link set {INTERFACE} gso_max_segs 1 up"))?;
        netns.ip(&format!("address add {address}/24 dev {INTERFACE}"))?;
        netns.ip(&format!("route add 224.0.0.0/4 dev {INTERFACE}"))?;
        Ok(Machine { netns, address })
    }

    /// Connects `count` more machines.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn machines(&self, count: usize) -> Result<Vec<Machine>> {
        (0..count).map(|_| self.machine()).collect()
    }
}

impl Machine {
    /// Waits until a program on this machine has joined a group.
    ///
    /// # Errors
    /// If none does.
    pub fn joins(&self, group: impl Into<IpAddr>) -> Result<()> {
        let group = group.into();
        let end = Instant::now() + LIMIT;
        while !self
            .netns
            .ip(&format!("maddress show dev {INTERFACE}"))?
            .split_whitespace()
            .any(|word| word == group.to_string())
        {
            ensure!(Instant::now() < end, "nobody joins {group}");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Gives it an IPv6 address of a network of the room's machines.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn with_ipv6(&self) -> Result<Ipv6Addr> {
        let [.., host] = self.address.octets();
        let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into());
        self.netns
            .ip(&format!("address add {address}/64 dev {INTERFACE} nodad"))?;
        Ok(address)
    }

    /// Filters what it receives and sends by these rules of nftables, each in the chain `input` or `output`.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn filter(&self, input: &str, output: &str) -> Result<()> {
        self.nft(&format!(
            "table inet filter {{\n\
             chain input {{ type filter hook input priority 0; {input}; }}\n\
             chain output {{ type filter hook output priority 0; {output}; }}\n}}\n"
        ))
    }

    /// From now on loses this many of a thousand UDP packets that it receives, and of those that it sends.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, permille: u32) -> Result<()> {
        let drop = format!("meta l4proto udp numgen random mod 1000 < {permille} drop");
        self.nft(&format!(
            "table inet loss {{\n\
             chain input {{ type filter hook input priority 0; {drop}; }}\n\
             chain output {{ type filter hook output priority 0; {drop}; }}\n}}\n"
        ))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        let mut nft = system("nft")?;
        nft.args(["-f", "-"]);
        let mut child = self.netns.command(&nft)?.stdin(Stdio::piped()).spawn()?;
        child
            .stdin
            .take()
            .context("nft has no stdin")?
            .write_all(rules.as_bytes())?;
        ensure!(child.wait()?.success(), "nft failed on\n{rules}");
        Ok(())
    }
}
