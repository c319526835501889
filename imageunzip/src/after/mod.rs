//! What is done with a disk when the image is on it: a larger table, larger filesystems, an identity of its own, hooks.
//!
//! Changes to the partition table belong to the held-back ends of the disk, and so are written with them, before the
//! boot sectors. Everything else comes when the disk is complete: a failure then ends with [`Exit::After`].

mod filesystem;
mod grow;
mod hooks;
mod hostname;
mod identity;
mod mount;
mod replace;
mod root;
mod steps;
pub(crate) mod table;
mod tool;
mod volume;

use std::path::{Path, PathBuf};

use clap::Args;
use diskmap::edit::Edit;
use frisbee_cli::progress::Progress;
use frisbee_cli::{Exit, Failure, Interrupt};
use nix::unistd::geteuid;

use crate::Report;

/// What is done with a disk when the image is on it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "After the installation")]
pub struct AfterArgs {
    /// On a larger target: leave the GPT as it is in the image, instead of moving its backup to the end
    #[arg(long, conflicts_with = "grow")]
    keep_gpt: bool,
    /// Extend the last partition to the end of the target, and the filesystem in it
    #[arg(long)]
    grow: bool,
    /// New random GUIDs for the disk and its partitions, UUIDs for its filesystems (fstab and boot files follow), no
    /// machine-id and no host keys of ssh
    #[arg(long)]
    new_guids: bool,
    /// Empty /etc/machine-id, so that the first boot makes a new one
    #[arg(long)]
    clear_machine_id: bool,
    /// Remove the host keys of ssh; something must make new ones at the first boot
    #[arg(long)]
    remove_host_keys: bool,
    /// Write /etc/hostname, and the name in /etc/hosts
    #[arg(long, value_name = "NAME", value_parser = hostname::parse)]
    hostname: Option<String>,
    /// Run every executable in this directory, in order of their names, with the root filesystem mounted
    #[arg(long, value_name = "DIR")]
    hooks: Option<PathBuf>,
    /// The partition with the root filesystem [default: the one that looks like it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    root_partition: Option<u32>,
}

/// The image that was installed, for the hooks.
#[derive(Clone, Debug, Default)]
pub struct ImageId {
    /// Its name.
    pub name: String,
    /// Its UUID; empty for an Emulab image.
    pub uuid: String,
    /// Its epoch; empty for an Emulab image.
    pub epoch: String,
}

/// Where it was installed.
#[derive(Clone, Copy)]
pub struct Installed<'a> {
    /// The program that speaks.
    pub program: &'a str,
    /// The disk or file.
    pub target: &'a Path,
    /// Bytes of its sectors.
    pub sector_size: u32,
    /// What is on it.
    pub image: &'a ImageId,
}

impl AfterArgs {
    /// Checks what can be known before the first write.
    ///
    /// # Errors
    /// [`Exit::Usage`] if something is asked for that cannot be done.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(directory) = &self.hooks {
            hooks::list(directory)?;
        }
        if !self.works_on_filesystems() {
            return Ok(());
        }
        if !geteuid().is_root() {
            let message =
                "what is to be done after the installation needs root, to mount filesystems";
            return Err(Failure::new(Exit::Usage, message));
        }
        if tool::find("losetup").is_none() {
            let message =
                "what is to be done after the installation needs losetup, which is not installed";
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(())
    }

    /// Whether the backup GPT stays where it is.
    pub(crate) fn keeps_gpt(&self) -> bool {
        self.keep_gpt
    }

    /// What changes in the partition table.
    ///
    /// # Errors
    /// [`Exit::Internal`] if there are no random numbers.
    pub fn edit(&self) -> Result<Edit, Failure> {
        let new_ids = match self.new_guids {
            true => {
                let mut random = [0; 32];
                getrandom::fill(&mut random)
                    .map_err(|error| Failure::new(Exit::Internal, error))?;
                Some(random)
            }
            false => None,
        };
        Ok(Edit {
            target_sectors: 0,
            resize: !self.keep_gpt,
            grow: self.grow,
            new_ids,
        })
    }

    /// Tells what has changed in the partition table, and does everything else.
    ///
    /// # Errors
    /// [`Exit::After`] if a step failed; the disk is complete all the same.
    pub fn run(
        &self,
        installed: &Installed<'_>,
        report: &Report,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let log = Log {
            prefix: format!("{}: {}", installed.program, installed.target.display()),
            progress,
        };
        table::tell(&report.table, self, &log);
        if !self.works_on_filesystems() {
            return Ok(());
        }
        let steps = steps::Steps {
            args: self,
            installed,
            table: &report.table,
            log: &log,
            interrupt,
        };
        steps.run().map_err(|failure| {
            let exit = match failure.exit {
                Exit::Interrupted => Exit::Interrupted,
                _ => Exit::After,
            };
            let target = installed.target.display();
            let message = format!("{target}: installed and verified, but {failure}");
            Failure::new(exit, message)
        })
    }

    /// Whether filesystems are changed, rather than only the table.
    pub(crate) fn works_on_filesystems(&self) -> bool {
        self.grow || self.new_guids || self.needs_root_filesystem()
    }

    /// Whether the root filesystem must be there.
    fn needs_root_filesystem(&self) -> bool {
        self.clear_machine_id
            || self.remove_host_keys
            || self.hostname.is_some()
            || self.hooks.is_some()
    }
}

/// Tells what is done.
struct Log<'a> {
    prefix: String,
    progress: &'a Progress,
}

impl Log<'_> {
    /// A step that was done.
    fn done(&self, step: &str, text: &str) {
        self.progress.line(&format!("{}: {text}", self.prefix));
        self.event(step, text, true);
    }

    /// Something that was not done, without being an error.
    fn warning(&self, step: &str, text: &str) {
        self.progress
            .line(&format!("{}: warning: {text}", self.prefix));
        self.event(step, text, false);
    }

    fn event(&self, step: &str, text: &str, done: bool) {
        let fields = serde_json::json!({ "step": step, "done": done, "text": text });
        self.progress.emit("after", fields);
    }
}

/// A step that failed.
fn failed(text: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::After, text)
}
