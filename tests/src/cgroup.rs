//! Memory limits: a control group in which a program has so much memory and no more, the page cache included.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::system;

/// Where groups of version 1 and 2 are, and the file with the limit.
const PLACES: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A control group; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A group with a limit of so many MiB; `None` where no such group can be made, as in most containers.
    pub fn new(mib: u64) -> Option<Self> {
        PLACES.iter().find_map(|(place, limit)| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("frisbee-test-{}-{number}", std::process::id());
            let group = Self {
                path: Path::new(place).join(name),
            };
            fs::create_dir(&group.path).ok()?;
            // Fails if the place is not one for memory; then the group is removed again.
            let limit = group.path.join(limit);
            limit.exists().then_some(())?;
            fs::write(limit, (mib << 20).to_string()).ok()?;
            Some(group)
        })
    }

    /// The same command, in the group.
    ///
    /// # Errors
    /// If there is no shell.
    pub fn command(&self, command: &Command) -> Result<Command> {
        let mut inside = system("sh")?;
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        inside.arg(self.path.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        Ok(inside)
    }

    /// Most memory that was in use, in MiB, the page cache included.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn peak(&self) -> Result<u64> {
        let names = ["memory.max_usage_in_bytes", "memory.peak"];
        let read = |name: &&str| fs::read_to_string(self.path.join(name)).ok();
        let text = names.iter().find_map(read).context("no peak")?;
        Ok(text.trim().parse::<u64>()? >> 20)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It is empty a moment after the last process has ended.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{}: cannot be removed", self.path.display());
    }
}
