//! SIGINT, SIGTERM and SIGHUP as a flag, so that a run can clean up behind itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::{Exit, Failure};

/// Whether the user or the system wants the program to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to watch for SIGINT, SIGTERM and SIGHUP. A second signal ends the program at once.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn watch() -> Result<Self, Failure> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if is_ignored(signal) {
                continue;
            }
            // Registered first, so that it sees the flag of an earlier signal only.
            flag::register_conditional_shutdown(
                signal,
                Exit::Interrupted as i32,
                Arc::clone(&interrupt.0),
            )
            .and_then(|_| flag::register(signal, Arc::clone(&interrupt.0)))
            .map_err(|error| Failure::new(Exit::Internal, error))?;
        }
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`Exit::Interrupted`] if a signal has come; `state` says what is left behind.
    pub fn check(&self, state: &str) -> Result<(), Failure> {
        if self.is_raised() {
            Err(Failure::new(
                Exit::Interrupted,
                format!("interrupted: {state}"),
            ))
        } else {
            Ok(())
        }
    }
}

/// Whether the parent has had a signal ignored, as nohup(1) does: then it stays so. The mask is that of proc(5).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
