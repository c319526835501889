//! Asking before something is destroyed.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use crate::{Exit, Failure};

/// Lets a destructive command go on: with `yes`, or if the user types the target's name at the terminal.
///
/// # Errors
/// [`Exit::Target`] if the user says no, or there is no terminal to ask on.
pub fn confirm_destruction(target: &Path, what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let refuse = |message: String| Err(Failure::new(Exit::Target, message));
    let name = target.display();
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return refuse(format!(
            "{name} would be overwritten, and there is no terminal to ask on: say --yes"
        ));
    }
    eprint!("{what}\nAll data on {name} will be lost. Type the name of the target to go on: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    match std::io::stdin().lock().read_line(&mut answer) {
        Ok(_) if answer.trim() == name.to_string() => Ok(()),
        _ => refuse(format!("{name} was not confirmed: nothing was written")),
    }
}
