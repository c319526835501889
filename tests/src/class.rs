//! A server and clients in a room, installing one image: what most multicast tests begin with.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::background::Background;
use crate::command::{LIMIT, tool};
use crate::events;
use crate::room::{INTERFACE, Machine, Room};
use crate::scene::Scene;

/// The group in rooms, which are networks of their own.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, 1), 7001);

/// A room with a server and clients.
#[derive(Debug)]
pub struct Class {
    /// The switch; more machines can be connected.
    pub room: Room,
    /// The server's machine.
    pub server: Machine,
    /// The clients' machines.
    pub clients: Vec<Machine>,
}

/// A client at work, and its target.
pub struct Student {
    /// The running client.
    pub client: Background,
    /// The file that it writes to.
    pub target: PathBuf,
}

impl Class {
    /// A room with this many clients.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(clients: usize) -> Result<Self> {
        let room = Room::new()?;
        let server = room.machine()?;
        let clients = room.machines(clients)?;
        Ok(Self {
            room,
            server,
            clients,
        })
    }

    /// Every client loses this many of a thousand packets.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, permille: u32) -> Result<()> {
        self.clients
            .iter()
            .try_for_each(|client| client.lose(permille))
    }

    /// Starts `frisbeed` with the scene's image, and waits until it serves.
    ///
    /// # Errors
    /// What it says.
    pub fn serve(&self, scene: &Scene, rate: &str) -> Result<Background> {
        serve(&self.server, scene, &scene.image, GROUP, rate)
    }

    /// Starts a client on a machine, with a used disk as its target.
    ///
    /// # Errors
    /// What it says.
    pub fn student(&self, scene: &Scene, number: usize) -> Result<Student> {
        let target = scene.used_disk(&format!("target-{number}"))?;
        student(&self.clients[number], scene, target, GROUP)
    }

    /// Starts all clients.
    ///
    /// # Errors
    /// What they say.
    pub fn students(&self, scene: &Scene) -> Result<Vec<Student>> {
        (0..self.clients.len())
            .map(|number| self.student(scene, number))
            .collect()
    }
}

/// Starts `frisbeed` on a machine, and waits until it serves.
///
/// # Errors
/// What it says.
pub fn serve(
    machine: &Machine,
    scene: &Scene,
    image: &Path,
    group: impl Display,
    rate: &str,
) -> Result<Background> {
    let server = Background::start(
        machine
            .netns
            .command(&scene.server(image, group, INTERFACE, rate)?)?,
    )?;
    events::next(&server, "start")?;
    Ok(server)
}

/// Starts a program on a machine.
///
/// # Errors
/// If it cannot be started.
pub fn start(machine: &Machine, command: &Command) -> Result<Background> {
    Background::start(machine.netns.command(command)?)
}

/// Starts `frisbeed` with these options on a machine, and waits until it serves.
///
/// # Errors
/// What it says.
pub fn serve_with<S: AsRef<OsStr>>(
    machine: &Machine,
    options: impl IntoIterator<Item = S>,
) -> Result<Background> {
    let mut command = tool("frisbeed")?;
    command
        .args(["--json", "--interface", INTERFACE])
        .args(options);
    let server = start(machine, &command)?;
    events::next(&server, "start")?;
    Ok(server)
}

/// Starts a client with these options, and no others but its keys, on a machine.
///
/// # Errors
/// If it cannot be started.
pub fn student_with(
    machine: &Machine,
    scene: &Scene,
    target: PathBuf,
    options: &[&str],
) -> Result<Student> {
    let mut command = scene.keys.client()?;
    command
        .args(["--json", "--timeout", "60"])
        .args(options)
        .arg(&target);
    let client = start(machine, &command)?;
    Ok(Student { client, target })
}

/// Starts a client on a machine.
///
/// # Errors
/// If it cannot be started.
pub fn student(
    machine: &Machine,
    scene: &Scene,
    target: PathBuf,
    group: impl Display,
) -> Result<Student> {
    let client = Background::start(
        machine
            .netns
            .command(&scene.client(&target, group, INTERFACE)?)?,
    )?;
    Ok(Student { client, target })
}

impl Student {
    /// Waits until the client has ended well, and checks its target. Returns its `finish` event.
    ///
    /// # Errors
    /// What is wrong.
    pub fn graduates(self, scene: &Scene) -> Result<Value> {
        let outcome = self.client.wait(LIMIT)?.success()?;
        scene.same_data(&self.target).context("a client")?;
        events::last(&outcome, "finish")
    }
}

/// Ends a server as an operator does, and returns its `finish` event.
///
/// # Errors
/// If it does not end well.
pub fn end(server: Background) -> Result<Value> {
    server.signal(Signal::SIGTERM)?;
    let outcome = server.wait(LIMIT)?.success()?;
    ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
    events::last(&outcome, "finish")
}
