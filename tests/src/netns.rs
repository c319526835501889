//! Network namespaces: machines of their own as far as the network is concerned.

use std::fs::File;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::command::{must, system};
use crate::scratch::is_gone;

/// What all names begin with.
const PREFIX: &str = "frz-e2e-";

/// A network namespace with its loopback up; removed, with its interfaces, when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace. The name is unique among those of this process.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn new(name: &str) -> Result<Self> {
        let netns = Self {
            name: format!("{PREFIX}{}-{name}", std::process::id()),
        };
        must("ip", ["netns", "add", &netns.name])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name by which `ip` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it, with the words of `line`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, line: &str) -> Result<String> {
        must(
            "ip",
            ["-n", &self.name]
                .into_iter()
                .chain(line.split_whitespace()),
        )
    }

    /// The same command, to be run in it.
    ///
    /// # Errors
    /// If `nsenter` is not installed.
    pub fn command(&self, inner: &Command) -> Result<Command> {
        // `ip netns exec` would give it mounts of its own, which keep other tests' filesystems mounted.
        let mut command = system("nsenter")?;
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(inner.get_program())
            .args(inner.get_args());
        Ok(command)
    }

    /// Runs `action` in a thread in this namespace: sockets made there stay there, wherever they are used.
    ///
    /// # Errors
    /// If the namespace cannot be entered; those of `action`.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            let file = File::open(format!("/run/netns/{}", self.name))?;
            setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            action()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| anyhow!("a thread panicked"))?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = must("ip", ["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes the namespaces of tests that were killed.
///
/// # Errors
/// What `ip` says.
pub fn sweep() -> Result<()> {
    for line in must("ip", ["netns", "list"])?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if process.is_some_and(is_gone) {
            // Another test may be doing the same.
            let _ = must("ip", ["netns", "del", name]);
        }
    }
    Ok(())
}
