//! What all the command line tools have in common: exit codes and error lines, key files, units, progress.

pub mod confirm;
pub mod exit;
pub mod keys;
pub mod progress;
pub mod units;

pub use exit::{Exit, Failure, run};
