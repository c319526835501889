//! Options about which disk is written, which imageunzip and frisbee-client share.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use frisbee_cli::device::System;
use frisbee_cli::disks::Disk;
use frisbee_cli::selector::Selector;
use frisbee_cli::{Exit, Failure, say};
use serde_json::{Value, json};

/// Which disk is written.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The disk, partition or file to write; for imageunzip, `-` writes the disk to standard output
    #[arg(required_unless_present_any = ["disk", "list_disks"], conflicts_with = "disk")]
    target: Option<PathBuf>,
    /// Write the one disk of this machine for which all of this holds, with commas between: serial=, wwn=, by-id=, model=
    /// or name= (* and ? stand for anything but in serial and wwn), nvme, ssd, hdd, removable; smallest or largest of those;
    /// only, if there is no other. None is written if several could be meant. Disks that are in use or read-only are
    /// passed over; removable and USB disks too, unless removable, serial, wwn, by-id or name says so
    #[arg(long, value_name = "SELECTOR", help_heading = "Installation")]
    disk: Option<Selector>,
    /// Print the disks of this machine, what they are and whether they could be written, and end
    #[arg(long, help_heading = "Installation")]
    pub list_disks: bool,
}

impl TargetArgs {
    /// Prints the disks of this machine, if that is what is wanted; with `json` as one JSON object.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn list(&self, json: bool) -> Result<bool, Failure> {
        if !self.list_disks {
            return Ok(false);
        }
        let system = System::default();
        let text = if json {
            let disks: Vec<Value> = system.disks().iter().map(Disk::fields).collect();
            format!("{}\n", json!({ "disks": disks }))
        } else {
            system.table()
        };
        let fail = |error| Failure::new(Exit::Io, error).context("standard output");
        io::stdout().write_all(text.as_bytes()).map_err(fail)?;
        Ok(true)
    }

    /// Whether the disk goes to standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.target.as_deref() == Some(Path::new("-"))
    }

    /// The target, named or chosen. What was chosen is said, in the name of `program`.
    ///
    /// # Errors
    /// [`Exit::Target`] if not exactly one disk can be meant.
    pub fn choose(&self, program: &str) -> Result<PathBuf, Failure> {
        let Some(selector) = &self.disk else {
            // The command line's rules leave nothing else.
            let missing = || Failure::new(Exit::Usage, "name the disk or file to write");
            return self.target.clone().ok_or_else(missing);
        };
        let disks = System::default().disks();
        let disk = selector.choose(&disks)?;
        let (path, description) = (disk.path.display(), disk.description());
        say(&format!(
            "{program}: --disk {selector} is {path}: {description}"
        ));
        Ok(disk.path.clone())
    }
}

/// A target's name, with model and serial number if it has any.
pub fn title(target: &Path) -> String {
    let name = target.display();
    match System::default().disk_at(target) {
        Some((disk, None)) if disk.model.is_some() || disk.serial.is_some() => {
            format!("{name} ({})", disk.title())
        }
        _ => name.to_string(),
    }
}
