//! Asking before something is destroyed.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::device::System;
use crate::{Exit, Failure, Interrupt};

/// Milliseconds between two looks whether a signal has come.
const SIGNAL_INTERVAL: u16 = 100;

/// Checks that a destructive command could go on: with `yes`, or with a terminal to ask on.
///
/// # Errors
/// [`Exit::Target`] if not.
pub fn can_be_confirmed(target: &Path, yes: bool) -> Result<(), Failure> {
    if yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    let name = target.display();
    let message =
        format!("{name} would be overwritten, and there is no terminal to ask on: say --yes");
    Err(Failure::new(Exit::Target, message))
}

/// Lets a destructive command go on: with `yes`, or if the user types the target's name at the terminal.
///
/// # Errors
/// [`Exit::Target`] if the user says no, or there is no terminal to ask on; [`Exit::Interrupted`]
pub fn confirm_destruction(
    target: &Path,
    what: &str,
    yes: bool,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    can_be_confirmed(target, yes)?;
    if yes {
        return Ok(());
    }
    let name = target.display();
    let mut terminal = io::stderr();
    let device = System::default().describe(target);
    let device = device.map(|device| format!("{device}\n"));
    let _ = write!(
        terminal,
        "{what}\n{}All data on {name} will be lost. Type the name of the target to go on: ",
        device.unwrap_or_default()
    );
    let _ = terminal.flush();
    let stdin = io::stdin();
    // A signal sets a flag and does not end a read, so reading waits until there is a line.
    loop {
        interrupt.check("nothing was written")?;
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(SIGNAL_INTERVAL)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let mut answer = String::new();
    match stdin.lock().read_line(&mut answer) {
        Ok(_) if answer.trim() == name.to_string() => Ok(()),
        _ => {
            let message = format!("{name} was not confirmed: nothing was written");
            Err(Failure::new(Exit::Target, message))
        }
    }
}
